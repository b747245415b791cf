//! Serves the router: HTTP/1 and HTTP/2, with TLS where configured, bounded in connections and
//! time, and stopped without cutting answers short.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_pipeline::tls::ServerTls;

/// Connections at a time; further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 1_024;
/// How long a client may take for a handshake, or for the head of a request.
const HEAD_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failed accept (no file descriptors left, for instance).
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How to serve.
pub struct ServeOptions {
    /// Certificate; plain HTTP without.
    pub tls: Option<Arc<ServerTls>>,
    /// Cancelled when serving shall end.
    pub stop: CancellationToken,
    /// How long running answers may take after that.
    pub drain: Duration,
}

/// Serves `router` on `listener` until `options.stop` is cancelled and running answers are done
/// or `options.drain` has passed.
///
/// # Errors
/// If the listener has no address.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    options: ServeOptions,
) -> io::Result<SocketAddr> {
    let address = listener.local_addr()?;
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let tracker = TaskTracker::new();
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let stream = tokio::select! {
            () = options.stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (router, tls, stop) = (router.clone(), options.tls.clone(), options.stop.clone());
        tracker.spawn(async move {
            let _place = place;
            connection(stream, router, tls, stop).await;
        });
    }
    drop(listener);
    tracker.close();
    if tokio::time::timeout(options.drain, tracker.wait()).await.is_err() {
        tracing::warn!("some answers were cut off by the stop");
    }
    Ok(address)
}

async fn connection(
    stream: TcpStream,
    router: Router,
    tls: Option<Arc<ServerTls>>,
    stop: CancellationToken,
) {
    // Answers go out in small pieces while they are computed.
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(TokioIo::new(stream), router, stop).await,
        Some(tls) => {
            let accept = TlsAcceptor::from(tls.config()).accept(stream);
            match tokio::time::timeout(HEAD_DEADLINE, accept).await {
                Ok(Ok(stream)) => http(TokioIo::new(stream), router, stop).await,
                Ok(Err(e)) => tracing::debug!(error = %e, "TLS handshake failed"),
                Err(_) => tracing::debug!("TLS handshake took too long"),
            }
        }
    }
}

async fn http<S>(stream: S, router: Router, stop: CancellationToken)
where
    S: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_DEADLINE);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(stream, service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(e) = ended {
        tracing::debug!(error = %e, "connection ended");
    }
}
