//! One connection: requests go out, answers come in, each with the number of its request.

use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use fluvio::dataplane::api::{Request, RequestMessage};
use fluvio::dataplane::link::ErrorCode;
use fluvio::dataplane::link::versions::{ApiVersions, ApiVersionsRequest};
use fluvio::dataplane::{Decoder, Encoder};
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::TIMEOUT;

/// What the other side hears of us.
const CLIENT_ID: &str = "weir";
/// The largest answer that is read.
const ANSWER_BYTES_MAX: u32 = 128 << 20;

trait Stream: AsyncRead + AsyncWrite + Send + Sync + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Sync + Unpin> Stream for T {}

/// A connection to the controller or to an SPU.
pub struct Line {
    address: String,
    stream: BufReader<Box<dyn Stream>>,
    versions: ApiVersions,
    last: i32,
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line").field("address", &self.address).finish_non_exhaustive()
    }
}

/// A request on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    id: i32,
    version: i16,
}

/// An answer to some request.
#[derive(Clone, Debug)]
pub struct Answer {
    id: i32,
    body: Bytes,
}

impl Answer {
    /// Whether it answers this request.
    pub fn is_to(&self, sent: Sent) -> bool {
        self.id == sent.id
    }

    /// What it says, as an answer to `sent`, which was a request of this type.
    ///
    /// # Errors
    /// If it is something else.
    pub fn read<R: Request>(&self, sent: Sent) -> Result<R::Response, String> {
        let mut body = self.body.clone();
        R::Response::decode_from(&mut body, sent.version)
            .map_err(|e| format!("an answer cannot be read: {e}"))
    }
}

impl Line {
    /// Connects, and asks for what the other side understands.
    pub(super) async fn open(
        address: &str,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, String> {
        let said = |e: std::io::Error| format!("{address}: {e}");
        let stream = TcpStream::connect(address).await.map_err(said)?;
        stream.set_nodelay(true).map_err(said)?;
        let stream: Box<dyn Stream> = match tls {
            None => Box::new(stream),
            Some(config) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                let name = ServerName::try_from(host).map_err(|e| format!("{address}: {e}"))?;
                let connected = TlsConnector::from(config).connect(name, stream).await;
                Box::new(connected.map_err(|e| format!("{address}: TLS: {e}"))?)
            }
        };
        let mut line = Self {
            address: address.to_owned(),
            stream: BufReader::new(stream),
            versions: Vec::new(),
            last: 0,
        };
        let request = ApiVersionsRequest {
            client_version: env!("CARGO_PKG_VERSION").to_owned(),
            client_os: std::env::consts::OS.to_owned(),
            client_arch: std::env::consts::ARCH.to_owned(),
        };
        let sent = line.put(request, ApiVersionsRequest::DEFAULT_API_VERSION).await?;
        let answer = line.answer().await?.read::<ApiVersionsRequest>(sent)?;
        if answer.error_code != ErrorCode::None {
            return Err(format!("{address}: {}", answer.error_code));
        }
        line.versions = answer.api_keys;
        Ok(line)
    }

    /// The newest form of a request that both sides understand.
    ///
    /// # Errors
    /// If there is none.
    pub fn version<R: Request>(&self) -> Result<i16, String> {
        let known = self.versions.iter().find(|v| i32::from(v.api_key) == i32::from(R::API_KEY));
        let fits = known
            .filter(|v| v.max_version >= R::MIN_API_VERSION && v.min_version <= R::MAX_API_VERSION);
        fits.map(|v| v.max_version.min(R::MAX_API_VERSION)).ok_or_else(|| {
            format!(
                "{}: it does not understand request {} as this client knows it (versions {} to {})",
                self.address,
                R::API_KEY,
                R::MIN_API_VERSION,
                R::MAX_API_VERSION
            )
        })
    }

    /// Sends a request.
    ///
    /// # Errors
    /// If the connection does not take it.
    pub async fn send<R: Request>(&mut self, request: R) -> Result<Sent, String> {
        let version = self.version::<R>()?;
        self.put(request, version).await
    }

    async fn put<R: Request>(&mut self, request: R, version: i16) -> Result<Sent, String> {
        self.last = self.last.wrapping_add(1);
        let mut message = RequestMessage::new_request(request);
        let header = message.get_mut_header();
        header.set_client_id(CLIENT_ID);
        header.set_correlation_id(self.last);
        header.set_api_version(version);
        let mut body = Vec::new();
        message.encode(&mut body, 0).map_err(|e| self.said(&e))?;
        let length = u32::try_from(body.len()).map_err(|e| format!("{}: {e}", self.address))?;
        let sent = async {
            self.stream.write_all(&length.to_be_bytes()).await?;
            self.stream.write_all(&body).await?;
            self.stream.flush().await
        };
        sent.await.map_err(|e| self.said(&e))?;
        Ok(Sent { id: self.last, version })
    }

    /// Waits until an answer begins. May be dropped at any time.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn ready(&mut self) -> Result<(), String> {
        match self.stream.fill_buf().await {
            Ok([]) => Err(format!("{}: it closed the connection", self.address)),
            Ok(_) => Ok(()),
            Err(e) => Err(self.said(&e)),
        }
    }

    /// The next answer, whatever it answers. Not to be dropped before it is there, if the connection
    /// is used further.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn answer(&mut self) -> Result<Answer, String> {
        let body = self.frame().await.map_err(|e| match e.kind() {
            std::io::ErrorKind::UnexpectedEof => {
                format!("{}: it closed the connection", self.address)
            }
            _ => self.said(&e),
        });
        let mut body = body?;
        if body.len() < size_of::<i32>() {
            return Err(format!("{}: an answer without a number", self.address));
        }
        Ok(Answer { id: body.get_i32(), body })
    }

    async fn frame(&mut self) -> std::io::Result<Bytes> {
        let length = self.stream.read_u32().await?;
        if length > ANSWER_BYTES_MAX {
            let why = format!("an answer of {length} bytes, expected {ANSWER_BYTES_MAX} at most");
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidData, why));
        }
        // Grows with what comes, so that a length alone takes no memory.
        let mut body = BytesMut::new();
        let mut rest = (&mut self.stream).take(length.into());
        while body.len() < length as usize {
            if rest.read_buf(&mut body).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(body.freeze())
    }

    /// Sends a request and waits for its answer, [`TIMEOUT`] at most.
    ///
    /// # Errors
    /// If it does not come. The connection is of no use then.
    pub async fn ask<R: Request>(&mut self, request: R) -> Result<R::Response, String> {
        let asked = async {
            let sent = self.send(request).await?;
            loop {
                let answer = self.answer().await?;
                if answer.is_to(sent) {
                    return answer.read::<R>(sent);
                }
            }
        };
        match tokio::time::timeout(TIMEOUT, asked).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("{}: no answer within {} s", self.address, TIMEOUT.as_secs())),
        }
    }

    fn said(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.address)
    }
}
