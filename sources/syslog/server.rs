//! The running source: sockets in, journal entries out.
//!
//! Sockets and connections live across reloads: whatever they read is decoded with the settings in
//! force when it is appended. Only another address, protocol or client authority ends them.

mod tcp;
mod udp;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_pipeline::component::{SourceContext, SourceSettings};
use weir_pipeline::intake::now;
use weir_pipeline::journal::Envelope;

use super::frames::CONTENT_TYPE;
use super::{Protocol, SyslogPlan};

/// First and longest pause before an address that could not be opened is tried again.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(30));
/// At a stop, what was taken in may take this long to come to disk.
const FINISH: Duration = Duration::from_secs(5);

/// Runs until `context.stop` is cancelled, then finishes what it has taken in.
pub(super) async fn run(context: SourceContext) {
    let kill = CancellationToken::new();
    let (deadline, stop) = (kill.clone(), context.stop.clone());
    let deadline = async move {
        stop.cancelled().await;
        tokio::time::sleep(FINISH).await;
        deadline.cancel();
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = deadline => {}
        () = serve(Live { context, kill, old: TaskTracker::new() }) => {}
    }
}

async fn serve(live: Live) {
    let mut pause = RETRY.0;
    while !live.context.stop.is_cancelled() {
        let settings = live.settings();
        let Some(plan) = settings.plan() else {
            tracing::error!(source = %live.context.id, "these are not the settings of syslog");
            return;
        };
        // Ends the sockets and connections of this address.
        let end = live.context.stop.child_token();
        let opened = match plan.protocol {
            Protocol::Udp => udp::open(&live, plan),
            Protocol::Tcp | Protocol::Tls => tcp::open(&live, plan),
        };
        match opened.map(|serving| serving(live.clone(), end.clone())) {
            Ok(mut serving) => {
                pause = RETRY.0;
                tokio::select! {
                    () = &mut serving => {}
                    () = live.moved(plan) => {
                        // What it has read may wait for the disk; the new address need not.
                        end.cancel();
                        live.old.spawn(serving);
                    }
                }
            }
            Err(error) => {
                tracing::error!(
                    source = %live.context.id, address = %plan.listen, error,
                    "cannot listen, trying again"
                );
                let message = format!("cannot listen on {}: {error}", plan.listen);
                live.context.intake.metrics().error(1, "bind", &message, now());
                tokio::select! {
                    () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY.1),
                    () = live.moved(plan) => pause = RETRY.0,
                    () = live.context.stop.cancelled() => {}
                }
            }
        }
    }
    live.old.close();
    live.old.wait().await;
}

/// What a socket serves with: made by `open`, run until the token is cancelled.
type Serving =
    Box<dyn FnOnce(Live, CancellationToken) -> futures::future::BoxFuture<'static, ()> + Send>;

/// The source as its sockets and connections see it.
#[derive(Clone)]
struct Live {
    context: SourceContext,
    /// Cancelled when the time to finish is over.
    kill: CancellationToken,
    /// Sockets and connections of earlier addresses that finish.
    old: TaskTracker,
}

/// One generation of settings.
#[derive(Clone)]
struct Settings(Arc<SourceSettings>);

impl Settings {
    fn plan(&self) -> Option<&SyslogPlan> {
        self.0.plan.as_any().downcast_ref()
    }
}

impl Live {
    fn settings(&self) -> Settings {
        Settings(self.context.settings.borrow().clone())
    }

    /// Longest message in force.
    fn message_bytes_max(&self) -> usize {
        self.settings().plan().map_or(super::MESSAGE_BYTES as usize, |p| p.message_bytes_max)
    }

    /// Comes when the settings ask for other sockets than `plan` did.
    async fn moved(&self, plan: &SyslogPlan) {
        let sockets = |p: &SyslogPlan| {
            let client_ca = p.tls.as_ref().and_then(|t| t.client_ca.clone());
            (p.listen, p.protocol, client_ca, p.connections_max)
        };
        let old = sockets(plan);
        let mut settings = self.context.settings.clone();
        let other = |s: &Arc<SourceSettings>| {
            Settings(s.clone()).plan().is_some_and(|plan| sockets(plan) != old)
        };
        if settings.wait_for(other).await.is_err() {
            // Nobody can change them any more; only the stop is left.
            std::future::pending::<()>().await;
        }
    }

    /// Appends messages and waits until they are on disk. What the journal cannot take now is
    /// tried again until the time to finish is over.
    async fn append(self, path: &'static str, peer: String, messages: usize, payload: Bytes) {
        let settings = self.settings();
        let Some(plan) = settings.plan() else { return };
        let envelope = Envelope {
            content_type: CONTENT_TYPE.to_owned(),
            path: path.to_owned(),
            peer,
            ..Envelope::default()
        };
        let decoder = &*plan.decoder;
        let intake = &self.context.intake;
        let generation = settings.0.generation;
        let cursor = Bytes::new();
        let kept =
            intake.accept_patiently(generation, decoder, envelope, payload, cursor, &self.kill);
        if let Err(error) = kept.await {
            tracing::error!(
                source = %self.context.id, messages, error = %error, "messages are lost"
            );
        }
    }
}
