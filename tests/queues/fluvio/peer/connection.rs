//! Frames of one connection.

use std::sync::Arc;

use fluvio::dataplane::api::{Request, RequestHeader, ResponseMessage};
use fluvio::dataplane::link::versions::{ApiVersionKey, ApiVersionsRequest, ApiVersionsResponse};
use fluvio::dataplane::{Decoder, Encoder};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use super::{Peer, controller, spu};

/// Where answers go.
pub(super) type Answers = mpsc::UnboundedSender<Vec<u8>>;

/// A request that came.
pub(super) struct Incoming<'a> {
    pub(super) header: RequestHeader,
    body: &'a [u8],
}

impl Incoming<'_> {
    pub(super) fn is<R: Request>(&self) -> bool {
        self.header.api_key() == R::API_KEY
    }

    pub(super) fn read<R: Request>(&self) -> R {
        R::decode_from(&mut &*self.body, self.header.api_version()).unwrap()
    }

    pub(super) fn answer<R: Request>(&self, answers: &Answers, response: R::Response)
    where
        R::Response: Default,
    {
        // A client that is gone hears nothing.
        let _ = answers.send(encoded(&self.header, response));
    }
}

/// A response without its length in front.
pub(super) fn encoded<P: Encoder + Default>(header: &RequestHeader, response: P) -> Vec<u8> {
    let mut bytes = Vec::new();
    let message = ResponseMessage::new(header.correlation_id(), response);
    message.encode(&mut bytes, header.api_version()).unwrap();
    bytes
}

pub(super) async fn serve<S>(peer: Arc<Peer>, stream: S, of_controller: bool)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (answers, mut to_write) = mpsc::unbounded_channel::<Vec<u8>>();
    let writing = tokio::spawn(async move {
        while let Some(bytes) = to_write.recv().await {
            let length = u32::try_from(bytes.len()).unwrap();
            if writer.write_u32(length).await.is_err()
                || writer.write_all(&bytes).await.is_err()
                || writer.flush().await.is_err()
            {
                return;
            }
        }
    });
    let mut streams = spu::Streams::default();
    while let Ok(length) = reader.read_u32().await {
        let mut bytes = vec![0; length as usize];
        if reader.read_exact(&mut bytes).await.is_err() {
            break;
        }
        let mut body = &bytes[..];
        let header = RequestHeader::decode_from(&mut body, 0).unwrap();
        let incoming = Incoming { header, body };
        if incoming.is::<ApiVersionsRequest>() {
            let api_keys = if of_controller { controller::versions() } else { spu::versions() };
            let response = ApiVersionsResponse { api_keys, ..ApiVersionsResponse::default() };
            let platform_version =
                fluvio::dataplane::link::versions::PlatformVersion::new(&"0.50.1".parse().unwrap());
            let response = ApiVersionsResponse { platform_version, ..response };
            incoming.answer::<ApiVersionsRequest>(&answers, response);
        } else if of_controller {
            controller::answer(&peer, &incoming, &answers);
        } else {
            spu::answer(&peer, &incoming, &answers, &mut streams);
        }
    }
    streams.end();
    writing.abort();
}

/// What is understood of a kind of request.
pub(super) fn understood<R: Request>() -> ApiVersionKey {
    ApiVersionKey {
        api_key: i16::try_from(R::API_KEY).unwrap(),
        min_version: R::MIN_API_VERSION,
        max_version: R::MAX_API_VERSION,
    }
}
