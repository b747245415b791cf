//! Accepting connections, and the limits of each.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use axum::body::Body;
use http::uri::Authority;
use http::{Request, Response, StatusCode, header};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Server, Tls};

/// Connections of one source at a time; further ones wait in the kernel. Well below the usual
/// limit of 1,024 open files together with what the rest of the program has open.
pub(super) const CONNECTIONS_MAX: usize = 512;
/// A TLS handshake may take this long.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The first request of a connection has to be there after this long.
const FIRST_REQUEST: Duration = Duration::from_secs(15);
/// So long a connection without a request may still send one after the source was stopped.
const LAST_REQUEST: Duration = Duration::from_secs(1);
/// The head of a request may take this long; an idle HTTP/1 connection is closed after it.
const HEAD: Duration = Duration::from_secs(30);
/// HTTP/2 connections are asked for a sign of life this often, and have as long to give it.
const ALIVE: Duration = Duration::from_secs(20);
/// Requests of one HTTP/2 connection at a time.
const STREAMS_MAX: u32 = 128;
/// Bytes that an HTTP/2 sender may send ahead, per request and per connection.
const WINDOW_BYTES: (u32, u32) = (1 << 20, 4 << 20);
/// Pause after the system refused a connection (no file left, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Takes connections until `stop`.
pub(super) async fn accept(
    server: Server,
    listener: Arc<TcpListener>,
    tls: Tls,
    stop: CancellationToken,
) {
    loop {
        let permit = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            permit = server.connections.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let (kill, tls) = (server.kill.clone(), tls.read().clone());
                let connection = connection(server.clone(), stream, peer, tls, stop.clone());
                server.tasks.spawn(async move {
                    let _permit = permit;
                    tokio::select! {
                        () = kill.cancelled() => {}
                        () = connection => {}
                    }
                });
            }
            Err(e) => {
                tracing::warn!(source = %server.context.id, error = %e, "connection not accepted");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(
    server: Server,
    stream: TcpStream,
    peer: SocketAddr,
    tls: Option<Arc<weir_pipeline::tls::ServerTls>>,
    stop: CancellationToken,
) {
    // Answers are small; waiting for more would only delay them.
    let _ = stream.set_nodelay(true);
    let Some(tls) = tls else { return requests(server, stream, peer, stop).await };
    let acceptor = tokio_rustls::TlsAcceptor::from(tls.config());
    match timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => requests(server, stream, peer, stop).await,
        Ok(Err(e)) => {
            let message = format!("{peer}: {e}");
            let metrics = server.context.intake.metrics();
            metrics.rejected(1, "tls", &message, weir_pipeline::intake::now());
        }
        Err(_) => {}
    }
}

/// Whether a page of another site sends this through a visitor's browser, which names it in
/// `Origin`. Of a visitor on this machine the page must be of this machine too: a foreign name can
/// be made to lead here.
fn is_foreign<B>(request: &Request<B>, peer: SocketAddr) -> bool {
    let headers = request.headers();
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let host = host.or_else(|| request.uri().authority().map(|a| a.as_str())).unwrap_or_default();
    let origin = origin.to_str().ok().and_then(|o| o.split_once("://"));
    if host.is_empty() || origin.is_none_or(|(_, o)| !o.eq_ignore_ascii_case(host)) {
        return true;
    }
    let name = host.parse::<Authority>().map(|a| a.host().to_ascii_lowercase()).unwrap_or_default();
    let ip = name.trim_matches(['[', ']']).parse::<IpAddr>();
    let local = name == "localhost" || ip.is_ok_and(|ip| ip.to_canonical().is_loopback());
    peer.ip().to_canonical().is_loopback() && !local
}

fn refusal() -> Response<Body> {
    let text = "requests from pages of other sites are refused";
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::FORBIDDEN;
    response
}

async fn requests(
    server: Server,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    peer: SocketAddr,
    stop: CancellationToken,
) {
    let asked = Arc::new(AtomicBool::new(false));
    let service = {
        let (source, asked) = (server.source.clone(), asked.clone());
        service_fn(move |request| {
            asked.store(true, Relaxed);
            let answer =
                (!is_foreign(&request, peer)).then(|| source.clone().handle(request, peer));
            async move {
                Ok::<_, Infallible>(match answer {
                    Some(answer) => answer.await,
                    None => refusal(),
                })
            }
        })
    };
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD).keep_alive(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(ALIVE)
        .keep_alive_timeout(ALIVE)
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES.0)
        .initial_connection_window_size(WINDOW_BYTES.1)
        .max_header_list_size(64 << 10);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let mut first = pin!(sleep(FIRST_REQUEST));
    let mut last = pin!(sleep(FIRST_REQUEST));
    let (mut stopping, mut closing, mut waited) = (false, false, false);
    loop {
        tokio::select! {
            // What goes wrong with one connection is the sender's to see.
            _ = connection.as_mut() => return,
            () = stop.cancelled(), if !stopping => {
                stopping = true;
                // A request may be on its way over a connection that was just made: closing it
                // unread would refuse it.
                let wait = if asked.load(Relaxed) { Duration::ZERO } else { LAST_REQUEST };
                last.as_mut().reset(Instant::now() + wait);
            }
            () = last.as_mut(), if stopping && !closing => {
                closing = true;
                connection.as_mut().graceful_shutdown();
            }
            () = first.as_mut(), if !waited => {
                waited = true;
                if !asked.load(Relaxed) {
                    return;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pages_of_other_sites() {
        let near: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        let far: SocketAddr = "10.0.0.9:5000".parse().unwrap();
        let cases = [
            (near, "anything:4318", None, false),
            (near, "localhost:4318", Some("http://localhost:4318"), false),
            (near, "[::1]:4318", Some("http://[::1]:4318"), false),
            (near, "localhost:4318", Some("https://evil.example"), true),
            (near, "localhost:4318", Some("null"), true),
            (near, "evil.example:4318", Some("http://evil.example:4318"), true),
            (far, "weir.example", Some("https://weir.example"), false),
            (far, "weir.example", Some("https://evil.example"), true),
        ];
        for (peer, host, origin, expect) in cases {
            let mut request = Request::builder().header(header::HOST, host);
            if let Some(origin) = origin {
                request = request.header(header::ORIGIN, origin);
            }
            assert_eq!(is_foreign(&request.body(()).unwrap(), peer), expect, "{host} {origin:?}");
        }
    }
}
