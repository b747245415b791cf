//! Runs one query on threads of its own, and ends it.
//!
//! What runs cannot be interrupted from outside: it has to yield or look whether to stop (see
//! [`super::stop`]). A query that does neither for a while keeps its own threads busy and its
//! place among those that may run, and nothing else: the answer ends in time whatever it does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::QueryError;

/// Stack of each thread: what planning takes for the longest chain of terms that is admitted, with
/// room. It is memory only where it is used.
const STACK_BYTES: usize = 32 << 20;

/// How a query ended; an error may come behind rows.
pub(super) type Outcome = Result<(), QueryError>;

/// The threads of one query. They end with this, as soon as what they do yields.
#[derive(Debug)]
pub(super) struct Threads(Option<Runtime>);

impl Threads {
    /// Starts `count` of them. `place` is given back when the last has ended.
    pub(super) fn start(count: usize, place: OwnedSemaphorePermit) -> io::Result<Self> {
        let place = Arc::new(place);
        let runtime = Builder::new_multi_thread()
            .worker_threads(count)
            .thread_name("query")
            .thread_stack_size(STACK_BYTES)
            .enable_time()
            .on_thread_stop(move || {
                // Each thread holds this hook.
                let _ = &place;
            })
            .build()?;
        Ok(Self(Some(runtime)))
    }

    pub(super) fn spawn(
        &self,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Option<JoinHandle<Outcome>> {
        self.0.as_ref().map(|runtime| runtime.spawn(work))
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// When a query has to end, done or not.
pub(super) struct Bounds {
    /// Cancelled when nobody waits for the answer any more, and in any case at the end.
    pub(super) stop: CancellationToken,
    pub(super) deadline: Instant,
    /// What the deadline came from, for the message.
    pub(super) limit: Duration,
}

/// Waits for the end of `work`, which runs on `threads`, and tells `end` of it.
pub(super) async fn supervise(
    threads: Threads,
    work: JoinHandle<Outcome>,
    bounds: Bounds,
    end: oneshot::Sender<Outcome>,
) {
    let outcome = tokio::select! {
        done = work => done.unwrap_or_else(|_| Err(met_a_bug())),
        () = tokio::time::sleep_until(bounds.deadline) => {
            Err(QueryError::Timeout { limit: bounds.limit })
        }
        () = bounds.stop.cancelled() => Err(QueryError::Failed("nobody waits for it".into())),
    };
    bounds.stop.cancel();
    drop(threads);
    // Whoever asked may be gone.
    let _ = end.send(outcome);
}

pub(super) fn met_a_bug() -> QueryError {
    QueryError::Failed("the query ended without an answer: it met a bug".into())
}
