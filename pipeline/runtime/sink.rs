//! One task per sink, behind a bounded queue.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::batch::Batch;
use crate::component::{Sink, SinkError, Staged};
use crate::intake::now;
use crate::telemetry::ComponentMetrics;

/// Batches that wait in front of a sink, and their KiB; then its pipeline waits. One batch always
/// fits, however large.
const QUEUE_BATCHES: usize = 32;
const QUEUE_KIB: usize = 16 << 10;
/// Pauses between tries of a sink that fails, from first to longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(10);

/// A pipeline waits for a sink until this has failed for so long in a row,
const FAILING: Duration = Duration::from_secs(5);
/// or has done nothing for so long.
pub(super) const SILENT: Duration = Duration::from_secs(30);
/// How often a pipeline that waits looks whether its sink fails.
const LOOK: Duration = Duration::from_millis(200);

/// What a sink is given in the order of the journal.
#[derive(Clone)]
pub(super) enum Given {
    Batch(Batch),
    /// The tick at this offset.
    Tick(u64),
}

enum Command {
    Give {
        given: Given,
        /// Held until it is taken.
        room: Option<OwnedSemaphorePermit>,
    },
    /// Answered when all that was given before is taken.
    Settle {
        reply: oneshot::Sender<()>,
    },
    Stage {
        mark: u64,
        last: bool,
        reply: oneshot::Sender<Result<Staged, SinkError>>,
    },
    Commit {
        mark: u64,
        work: Vec<u8>,
        reply: oneshot::Sender<()>,
    },
}

/// The way to a running sink. It ends when the last handle is dropped and the queue is empty, or
/// at once when it is cancelled.
#[derive(Clone)]
pub(super) struct SinkHandle {
    commands: mpsc::Sender<Command>,
    room: Arc<Semaphore>,
    metrics: Arc<ComponentMetrics>,
    cancel: CancellationToken,
    failing: Failing,
}

/// When the first of the failures in a row was.
type Failing = Arc<Mutex<Option<Instant>>>;

/// The sink's task is gone: it was cancelled.
#[derive(Debug)]
pub(super) struct Gone;

impl SinkHandle {
    /// Starts the task of `sink`.
    pub(super) fn start(
        sink: Box<dyn Sink>,
        metrics: Arc<ComponentMetrics>,
        tasks: &TaskTracker,
    ) -> Self {
        let (commands, queue) = mpsc::channel(QUEUE_BATCHES);
        let failing = Failing::default();
        let task = Task { sink, metrics: metrics.clone(), failing: failing.clone() };
        let cancel = CancellationToken::new();
        let end = cancel.clone();
        tasks.spawn(async move { end.run_until_cancelled(task.run(queue)).await });
        Self { commands, room: Arc::new(Semaphore::new(QUEUE_KIB)), metrics, cancel, failing }
    }

    /// Notes that everything up to `position` is committed.
    pub(super) fn committed(&self, position: u64) {
        self.metrics.committed(position, now());
    }

    /// Ends it, whatever it does.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Whether its task has ended.
    pub(super) fn is_gone(&self) -> bool {
        self.commands.is_closed()
    }

    /// Waits until its task has ended.
    pub(super) async fn ended(&self) {
        self.commands.closed().await;
    }

    /// Ends when a pipeline that waits for it since `since` shall wait no more.
    pub(super) async fn overdue(&self, since: Instant) {
        let silent = since + SILENT;
        loop {
            let failing = *self.failing.lock();
            let until = failing.map_or(silent, |first| silent.min(first + FAILING));
            let now = Instant::now();
            if now >= until {
                return;
            }
            tokio::time::sleep_until(until.min(now + LOOK)).await;
        }
    }

    /// Hands over a batch or a tick; waits while the queue is full.
    pub(super) async fn give(&self, given: Given) -> Result<(), Gone> {
        let room = match &given {
            Given::Batch(batch) => {
                let kib = u32::try_from((batch.bytes() >> 10).min(QUEUE_KIB)).unwrap_or(0);
                Some(self.room.clone().acquire_many_owned(kib).await.map_err(|_| Gone)?)
            }
            Given::Tick(_) => None,
        };
        self.commands.send(Command::Give { given, room }).await.map_err(|_| Gone)?;
        self.metrics.queue((QUEUE_BATCHES - self.commands.capacity()) as u64);
        Ok(())
    }

    /// Waits until it has taken all that it was given before.
    pub(super) async fn settled(&self) -> Result<(), Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Settle { reply }).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }

    /// Asks the sink to stage all that was written before; the answer comes through the receiver.
    pub(super) async fn stage(
        &self,
        mark: u64,
        last: bool,
    ) -> Result<oneshot::Receiver<Result<Staged, SinkError>>, Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Stage { mark, last, reply }).await.map_err(|_| Gone)?;
        Ok(answer)
    }

    /// Commits staged work, trying until it succeeds.
    pub(super) async fn commit(&self, mark: u64, work: Vec<u8>) -> Result<(), Gone> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Commit { mark, work, reply }).await.map_err(|_| Gone)?;
        answer.await.map_err(|_| Gone)
    }
}

struct Task {
    sink: Box<dyn Sink>,
    metrics: Arc<ComponentMetrics>,
    failing: Failing,
}

impl Task {
    async fn run(mut self, mut queue: mpsc::Receiver<Command>) {
        while let Some(command) = queue.recv().await {
            self.metrics.queue(queue.len() as u64);
            match command {
                Command::Give { given, room } => {
                    match given {
                        Given::Batch(batch) => self.write(batch).await,
                        Given::Tick(offset) => self.tick(offset).await,
                    }
                    drop(room);
                }
                Command::Settle { reply } => drop(reply.send(())),
                Command::Stage { mark, last, reply } => {
                    let staged = self.sink.stage(mark, last).await;
                    if let Err(e) = &staged {
                        self.metrics.error(0, "stage", &e.message, now());
                    }
                    let _ = reply.send(staged);
                }
                Command::Commit { mark, work, reply } => {
                    self.commit(mark, &work).await;
                    let _ = reply.send(());
                }
            }
        }
    }

    async fn write(&mut self, batch: Batch) {
        let (rows, bytes) = (batch.num_rows() as u64, batch.bytes() as u64);
        self.metrics.input(rows, bytes, now());
        let start = std::time::Instant::now();
        let mut pause = RETRY_FIRST;
        loop {
            match self.sink.write(batch.clone()).await {
                Ok(()) => break self.metrics.output(rows, bytes),
                Err(e) => {
                    self.metrics.error(rows, "write", &e.message, now());
                    if !e.retry {
                        break;
                    }
                }
            }
            self.fails();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
        self.gets_on();
        self.metrics.batch_time(start.elapsed());
    }

    async fn tick(&mut self, offset: u64) {
        let mut pause = RETRY_FIRST;
        loop {
            match self.sink.tick(offset).await {
                Ok(()) => break,
                Err(e) => {
                    self.metrics.error(0, "tick", &e.message, now());
                    if !e.retry {
                        break;
                    }
                }
            }
            self.fails();
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
        self.gets_on();
    }

    /// A try failed, and another will follow.
    fn fails(&self) {
        self.failing.lock().get_or_insert_with(Instant::now);
    }

    fn gets_on(&self) {
        *self.failing.lock() = None;
    }

    /// A checkpoint names this work: there is no way but forward.
    async fn commit(&mut self, mark: u64, work: &[u8]) {
        let mut pause = RETRY_FIRST;
        while let Err(e) = self.sink.commit(mark, work).await {
            self.metrics.error(0, "commit", &e.message, now());
            tracing::warn!(error = %e.message, "sink could not commit, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }
}
