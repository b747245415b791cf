//! The HTTP server of sources that are sent to (`otlp`, `prometheus_remote_write`).
//!
//! One task per source: [`serve`] opens what the settings in force ask for, closes what they no
//! longer ask for, and hands every request to the source, which reads its settings anew each
//! time. HTTP/1.1 and HTTP/2 (also without TLS), each connection and request within limits.
//! A port in use is logged, counted and tried again while the other addresses serve.

mod accept;
mod auth;
mod body;
mod plan;
#[cfg(test)]
mod tests;

pub(crate) use auth::{Unauthorized, authorize};
pub(crate) use body::{BodyError, read_body};
pub(crate) use plan::{address, exposed, resolve_tls};

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use parking_lot::RwLock;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_pipeline::component::{SourceContext, SourceSettings};
use weir_pipeline::config::TlsServer;
use weir_pipeline::intake::now;
use weir_pipeline::tls::{ALPN_HTTP, ServerTls};

/// Requests under way at a stop, or on an address that goes away, may take this long.
const FINISH: Duration = Duration::from_secs(5);
/// First and longest pause before an address that could not be opened is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));

/// An address to serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Endpoint {
    /// Where.
    pub(crate) address: SocketAddr,
    /// With what certificate.
    pub(crate) tls: Option<TlsServer>,
}

/// What a source does with the server.
pub(crate) trait HttpSource: Send + Sync + 'static {
    /// The addresses that these settings ask for.
    fn endpoints(&self, settings: &SourceSettings) -> Vec<Endpoint>;

    /// Answers one request. It may be dropped when the sender goes away.
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Response<Body>>;
}

/// The certificate in force of one address.
type Tls = Arc<RwLock<Option<Arc<ServerTls>>>>;

/// One address that is being served.
struct Running {
    tls: Tls,
    stop: CancellationToken,
}

/// What stands between connections and the source.
#[derive(Clone)]
struct Server {
    source: Arc<dyn HttpSource>,
    context: SourceContext,
    /// Every task: accept loops and connections.
    tasks: TaskTracker,
    /// Cancelled when the time to finish is over.
    kill: CancellationToken,
    connections: Arc<tokio::sync::Semaphore>,
}

/// Serves until `context.stop` is cancelled, then finishes what is under way.
pub(crate) async fn serve(context: SourceContext, source: Arc<dyn HttpSource>) {
    let mut settings = context.settings.clone();
    let server = Server {
        source,
        context: context.clone(),
        tasks: TaskTracker::new(),
        kill: CancellationToken::new(),
        connections: Arc::new(tokio::sync::Semaphore::new(accept::CONNECTIONS_MAX)),
    };
    let mut running: BTreeMap<SocketAddr, Running> = BTreeMap::new();
    let mut pause = RETRY.0;
    loop {
        let wanted = server.source.endpoints(&settings.borrow_and_update());
        running.retain(|address, r| {
            let keep = wanted.iter().any(|e| e.address == *address);
            if !keep {
                r.stop.cancel();
            }
            keep
        });
        let mut failed = false;
        for endpoint in &wanted {
            failed |= !server.open(endpoint, &mut running);
        }
        let retry = if failed { Some(Instant::now() + pause) } else { None };
        pause = if failed { (pause * 2).min(RETRY.1) } else { RETRY.0 };
        tokio::select! {
            () = context.stop.cancelled() => break,
            changed = settings.changed() => {
                pause = RETRY.0;
                if changed.is_err() {
                    // Nobody can change the settings any more; only the stop is left.
                    context.stop.cancelled().await;
                    break;
                }
            }
            () = wait_until(retry) => {}
        }
    }
    running.values().for_each(|r| r.stop.cancel());
    server.tasks.close();
    if tokio::time::timeout(FINISH, server.tasks.wait()).await.is_err() {
        tracing::warn!(source = %context.id, "requests did not finish in time and are cut off");
        server.kill.cancel();
        server.tasks.wait().await;
    }
}

async fn wait_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

impl Server {
    /// Sees to it that `endpoint` is served; whether it is.
    fn open(&self, endpoint: &Endpoint, running: &mut BTreeMap<SocketAddr, Running>) -> bool {
        let address = endpoint.address;
        if let Some(running) = running.get(&address) {
            let old = running.tls.read().clone();
            if old.as_ref().map(|t| t.options()) != endpoint.tls.as_ref() {
                match load(endpoint.tls.as_ref()) {
                    Ok(new) => *running.tls.write() = new,
                    Err(e) => return self.failed(address, "tls", &e),
                }
            }
            return true;
        }
        let tls = match load(endpoint.tls.as_ref()) {
            Ok(tls) => tls,
            Err(e) => return self.failed(address, "tls", &e),
        };
        let listener = match self.context.listeners.tcp(address) {
            Ok(listener) => listener,
            Err(e) => return self.failed(address, "bind", &e.to_string()),
        };
        let bound = listener.local_addr().unwrap_or(address);
        tracing::info!(source = %self.context.id, address = %bound, tls = tls.is_some(), "listening");
        let (tls, stop): (Tls, _) = (Arc::new(RwLock::new(tls)), CancellationToken::new());
        self.tasks.spawn(accept::accept(self.clone(), listener, tls.clone(), stop.clone()));
        running.insert(address, Running { tls, stop });
        true
    }

    /// Reports an address that cannot be served now.
    fn failed(&self, address: SocketAddr, reason: &'static str, error: &str) -> bool {
        tracing::error!(source = %self.context.id, %address, error, "cannot listen, trying again");
        let message = format!("cannot listen on {address}: {error}");
        self.context.intake.metrics().error(1, reason, &message, now());
        false
    }
}

fn load(tls: Option<&TlsServer>) -> Result<Option<Arc<ServerTls>>, String> {
    tls.map(|t| ServerTls::load(t, ALPN_HTTP).map(Arc::new).map_err(|e| e.to_string())).transpose()
}
