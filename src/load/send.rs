//! Connections, and the loop that sends on one of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::{BufMut, Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Request, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::ledger::Ledger;
use super::{Feed, address};

/// Longest pause that an answer can ask for, and the one where it names none.
const PAUSE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(200));
/// How long a server that is gone is waited for.
const AWAY: Duration = Duration::from_secs(10);
/// gRPC: come again.
const GRPC_AGAIN: [&str; 2] = ["8", "14"];

/// How requests go out.
#[derive(Clone, Debug)]
pub(super) enum Way {
    Http { address: SocketAddr, url: url::Url, headers: &'static [(&'static str, &'static str)] },
    Grpc { address: SocketAddr, path: String },
    Tcp(SocketAddr),
}

impl Way {
    pub(super) fn remote_write(to: &str) -> Result<Self> {
        let headers = &[
            ("content-type", "application/x-protobuf"),
            ("content-encoding", "snappy"),
            ("x-prometheus-remote-write-version", "0.1.0"),
        ];
        Ok(Self::Http { address: address(to, "http")?, url: to.parse()?, headers })
    }

    /// `grpc://HOST:PORT` or `http://HOST:PORT`; `path` and `service` name the signal.
    pub(super) fn otlp(to: &str, path: &str, service: &str) -> Result<Self> {
        if to.starts_with("grpc:") {
            let package = service.to_lowercase();
            let path =
                format!("/opentelemetry.proto.collector.{package}.v1.{service}Service/Export");
            return Ok(Self::Grpc { address: address(to, "grpc")?, path });
        }
        let mut url: url::Url = to.parse().with_context(|| format!("`{to}` is no URL"))?;
        if url.path() == "/" {
            url.set_path(&format!("/v1/{path}"));
        }
        let headers = &[("content-type", "application/x-protobuf")];
        Ok(Self::Http { address: address(to, "http")?, url, headers })
    }

    async fn connect(&self) -> Result<Connection> {
        let address = match self {
            Self::Http { address, .. } | Self::Grpc { address, .. } | Self::Tcp(address) => address,
        };
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("cannot connect to {address}"))?;
        stream.set_nodelay(true)?;
        Ok(match self {
            Self::Http { .. } => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(async move { drop(connection.await) });
                Connection::Http(sender)
            }
            Self::Grpc { .. } => {
                let io = TokioIo::new(stream);
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(async move { drop(connection.await) });
                Connection::Grpc(sender)
            }
            Self::Tcp(_) => Connection::Tcp(stream),
        })
    }

    /// Tries for some time: a server that is loaded may be restarted.
    async fn connect_again(&self) -> Result<Connection> {
        let start = Instant::now();
        loop {
            match self.connect().await {
                Err(_) if start.elapsed() < AWAY => tokio::time::sleep(PAUSE.1).await,
                done => return done,
            }
        }
    }
}

enum Connection {
    Http(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
    Tcp(TcpStream),
}

enum Answer {
    Taken,
    /// By HTTP status, or 429 and 503 for what gRPC says.
    Later(u16, Duration),
}

impl Connection {
    /// An error of the outer kind: no answer came. Of the inner kind: it will never be taken.
    async fn send(&mut self, way: &Way, body: Bytes) -> Result<Result<Answer>> {
        match (self, way) {
            (Self::Http(sender), Way::Http { url, headers, .. }) => {
                let mut request = Request::post(url.path())
                    .header(HOST, url.authority())
                    .header(CONTENT_LENGTH, body.len());
                for (name, value) in *headers {
                    request = request.header(*name, *value);
                }
                sender.ready().await?;
                let answer = sender.send_request(request.body(Full::new(body))?).await?;
                let (head, body) = answer.into_parts();
                let body = body.collect().await?.to_bytes();
                Ok(match head.status {
                    status if status.is_success() && body.is_empty() => Ok(Answer::Taken),
                    StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                        Ok(Answer::Later(head.status.as_u16(), pause(&head.headers)))
                    }
                    status => Err(anyhow::anyhow!("{status}: {}", String::from_utf8_lossy(&body))),
                })
            }
            (Self::Grpc(sender), Way::Grpc { address, path }) => {
                let mut message = BytesMut::with_capacity(body.len() + 5);
                message.put_u8(0);
                message.put_u32(u32::try_from(body.len())?);
                message.put(body);
                let request = Request::post(format!("http://{address}{path}"))
                    .header(CONTENT_TYPE, "application/grpc")
                    .header("te", "trailers");
                sender.ready().await?;
                let request = request.body(Full::new(message.freeze()))?;
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = body.collect().await?;
                // An answer without a message has its outcome in the head.
                let trailers = body.trailers().unwrap_or(&head.headers);
                let text = |name: &str| {
                    trailers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().to_owned()
                };
                let (status, why) = (text("grpc-status"), text("grpc-message"));
                Ok(match status.as_str() {
                    // A message of its own says that a part was refused.
                    "0" if body.to_bytes().len() <= 5 => Ok(Answer::Taken),
                    again if GRPC_AGAIN.contains(&again) => {
                        Ok(Answer::Later(if again == "8" { 429 } else { 503 }, PAUSE.1))
                    }
                    other => Err(anyhow::anyhow!("gRPC status {other}: {why}")),
                })
            }
            (Self::Tcp(stream), _) => {
                stream.write_all(&body).await?;
                Ok(Ok(Answer::Taken))
            }
            _ => bail!("a connection of another kind"),
        }
    }

    async fn close(self) {
        if let Self::Tcp(mut stream) = self {
            let _ = stream.shutdown().await;
            // What is sent is not dropped as long as the server reads.
            let mut rest = tokio::io::sink();
            let ended = tokio::io::copy(&mut stream, &mut rest);
            let _ = tokio::time::timeout(PAUSE.0, ended).await;
        }
    }
}

fn pause(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
    seconds.map_or(PAUSE.1, |seconds| Duration::from_secs(seconds).min(PAUSE.0))
}

/// When senders end, and how fast they go.
#[derive(Clone)]
pub(super) struct Limits {
    until: Option<Instant>,
    rows: Option<u64>,
    /// Rows of all senders so far.
    sent: Arc<AtomicU64>,
    /// Seconds from row to row on one connection.
    every: Option<f64>,
}

impl Limits {
    pub(super) fn new(
        until: Option<Instant>,
        rows: Option<u64>,
        rate: Option<f64>,
        connections: usize,
    ) -> Self {
        let every = rate.map(|rate| connections as f64 / rate);
        Self { until, rows, sent: Arc::default(), every }
    }

    fn are_reached(&self) -> bool {
        let enough = self.rows.is_some_and(|rows| self.sent.load(Relaxed) >= rows);
        enough || self.until.is_some_and(|until| Instant::now() >= until)
    }
}

/// Sends until the limits are reached, each feed on a connection of its own.
///
/// # Errors
/// If the server is not there, or refuses something for good.
pub(super) async fn all(way: Way, feeds: Vec<Box<dyn Feed>>, limits: Limits) -> Result<Ledger> {
    let way = Arc::new(way);
    let mut senders = JoinSet::new();
    for feed in feeds {
        senders.spawn(one(way.clone(), feed, limits.clone()));
    }
    let mut ledger = Ledger::default();
    while let Some(done) = senders.join_next().await {
        ledger.add(&done??);
    }
    Ok(ledger)
}

async fn one(way: Arc<Way>, mut feed: Box<dyn Feed>, limits: Limits) -> Result<Ledger> {
    let mut ledger = Ledger::default();
    let mut connection = way.connect().await?;
    let (began, mut rows_before) = (Instant::now(), 0);
    while !limits.are_reached() {
        if let Some(every) = limits.every {
            let due = began + Duration::from_secs_f64(every * rows_before as f64);
            tokio::time::sleep_until(due.into()).await;
        }
        let (body, rows) = feed.next();
        rows_before += rows;
        limits.sent.fetch_add(rows, Relaxed);
        loop {
            let start = Instant::now();
            match connection.send(&way, body.clone()).await {
                Ok(Ok(Answer::Taken)) => {
                    ledger.acknowledge(rows, body.len(), start.elapsed());
                    break;
                }
                Ok(Ok(Answer::Later(status, pause))) => {
                    ledger.refuse(status);
                    if limits.are_reached() {
                        break;
                    }
                    tokio::time::sleep(pause).await;
                }
                Ok(Err(refused)) => return Err(refused),
                Err(_) => {
                    ledger.unknown += rows;
                    connection = way.connect_again().await?;
                    break;
                }
            }
        }
    }
    connection.close().await;
    Ok(ledger)
}
