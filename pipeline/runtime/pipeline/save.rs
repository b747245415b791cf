//! Checkpoints of a running pipeline: stage, rename into place, commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::Shared;
use super::super::sink::{Gone, SILENT, SinkHandle};
use super::change::AGAIN;
use super::detach;
use super::run::{End, Loop};
use crate::checkpoint::Checkpoint;
use crate::component::{SinkError, Staged};
use crate::failpoint;
use crate::graph::States;
use crate::intake::now;
use crate::memory::Pressure;
use crate::plan::PipelinePlan;

/// A checkpoint is due after this much running time, nanoseconds.
const EVERY_NS: i64 = 30_000_000_000;
/// ... or after this many bytes of decoded rows: what a sink stages meanwhile shall not take longer
/// than the journal's memory lasts, or all is decoded again.
const EVERY_BYTES: u64 = 128 << 20;
/// While it replays what it had read before a death, checkpoints come this often.
const REPLAYED: Duration = Duration::from_secs(1);
/// Where rows in memory are many, checkpoints come at most this often, nanoseconds.
const PRESSED_NS: i64 = 1_000_000_000;
/// After a checkpoint that failed the next try waits this long, nanoseconds of running time; so
/// long also between checkpoints while the journal is filling up, so that it can be trimmed, and
/// between those of a detached sink, which comes back once it has saved.
const SOON_NS: i64 = 5_000_000_000;

impl Loop {
    pub(super) fn describe(
        &self,
        plan: &PipelinePlan,
        states: States,
        sinks: BTreeMap<String, Staged>,
        removed: bool,
    ) -> Checkpoint {
        Checkpoint {
            pipeline: plan.name.to_string(),
            detached: self.consumer.sink.as_deref().map(str::to_owned),
            plan: plan.hash.clone(),
            journal: self.shared.journal.id(),
            position: self.position,
            now: self.tick.time,
            watermark: self.tick.watermark,
            removed,
            renamed: None,
            states,
            sinks,
        }
    }

    fn is_due(&mut self) -> bool {
        let elapsed = self.tick.elapsed;
        let due = *self.due_at.get_or_insert(elapsed + EVERY_NS);
        let (held, backlog) = {
            let progress = self.progress.lock();
            (progress.held_bytes, progress.backlog_bytes)
        };
        let filling = self.shared.journal.is_filling() || (backlog > 0 && held > backlog / 2);
        let filling = filling && elapsed >= due - EVERY_NS + SOON_NS;
        let pressed = self.pressure() > Pressure::None && elapsed >= due - EVERY_NS + PRESSED_NS;
        let replays = self.position < self.replays_to && self.saved.elapsed() >= REPLAYED;
        let alone = self.consumer.sink.is_some() && elapsed >= due - EVERY_NS + SOON_NS;
        let early = replays || filling || pressed || alone || self.bytes_since >= EVERY_BYTES;
        elapsed >= due || early && elapsed >= self.not_before
    }

    fn pressure(&self) -> Pressure {
        self.shared.rows.pressure(&self.plan.name, self.sinks.keys())
    }

    /// Saves before it reads on, where rows in memory are as many as may be. As long as that fails
    /// (the disk refuses), what comes stays in the journal.
    async fn make_room(&mut self) -> Result<(), End> {
        while self.pressure() == Pressure::Wait && self.tick.elapsed >= self.in_vain {
            self.finish_checkpoint().await;
            if self.pressure() < Pressure::Wait {
                break;
            }
            if self.checkpoint_now(&[], false).await.is_ok() {
                // Others hold it, a query perhaps: saving more often would not help.
                self.in_vain = self.tick.elapsed + PRESSED_NS;
                break;
            }
            self.all_there()?;
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    pub(super) async fn checkpoint_if_due(&mut self) -> Result<(), End> {
        self.make_room().await?;
        if let Some(task) = &self.checkpointing {
            if !task.is_finished() {
                return Ok(());
            }
            self.finish_checkpoint().await;
        }
        if !self.is_due() {
            return Ok(());
        }
        self.due_at = Some(self.tick.elapsed + EVERY_NS);
        self.bytes_since = 0;
        self.saved = Instant::now();
        match self.begin_checkpoint().await {
            Ok(task) => self.checkpointing = Some(task),
            Err(why) => self.note_failure(why),
        }
        Ok(())
    }

    /// Waits for the checkpoint in flight, if there is one.
    pub(super) async fn finish_checkpoint(&mut self) {
        let Some(task) = self.checkpointing.take() else { return };
        match task.await.unwrap_or_else(|e| Err(e.to_string())) {
            Ok(saved) => {
                self.note_success(saved.position);
                self.take_up(saved);
            }
            Err(why) => self.note_failure(why),
        }
    }

    fn take_up(&mut self, saved: Saved) -> BTreeMap<String, Staged> {
        self.let_go(saved.slow);
        // It is saved all the same: what is not committed now, a later checkpoint or start commits.
        saved.wrong.into_iter().for_each(|why| self.note_failure(why));
        saved.staged
    }

    fn note_success(&self, position: u64) {
        let mut progress = self.progress.lock();
        progress.committed = position;
        progress.committed_at = now();
        progress.checkpoint_error = None;
    }

    pub(super) fn note_failure(&mut self, why: String) {
        tracing::warn!(pipeline = %self.plan.name, error = why, "checkpoint failed, trying again");
        self.not_before = self.tick.elapsed + SOON_NS;
        self.due_at = Some(self.not_before);
        self.progress.lock().checkpoint_error = Some(why);
    }

    /// Saves a checkpoint at the current position and waits until its work is committed.
    pub(super) async fn checkpoint_now(
        &mut self,
        leaving: &[Arc<str>],
        removed: bool,
    ) -> Result<(States, BTreeMap<String, Staged>), String> {
        let done = self.try_checkpoint(leaving, removed).await;
        match &done {
            Ok(_) => {
                self.note_success(self.position);
                self.due_at = Some(self.tick.elapsed + EVERY_NS);
                self.bytes_since = 0;
            }
            Err(why) => self.note_failure(why.clone()),
        }
        done
    }

    async fn try_checkpoint(
        &mut self,
        leaving: &[Arc<str>],
        removed: bool,
    ) -> Result<(States, BTreeMap<String, Staged>), String> {
        let (states, staging) = self.stage(leaving).await?;
        let adopted = self.adopted.clone().into_iter().collect();
        let checkpoint = self.describe(&self.plan, states.clone(), adopted, removed);
        let saved = self.finish(staging, checkpoint).await?;
        Ok((states, self.take_up(saved)))
    }

    /// Takes the states and asks the sinks to stage; the rest runs beside the loop.
    async fn begin_checkpoint(&mut self) -> Result<JoinHandle<Result<Saved, String>>, String> {
        let (states, staging) = self.stage(&[]).await?;
        let checkpoint = self.describe(&self.plan, states, BTreeMap::new(), false);
        Ok(self.tasks.spawn(self.finish(staging, checkpoint)))
    }

    async fn stage(&mut self, leaving: &[Arc<str>]) -> Result<(States, Vec<Staging>), String> {
        let states = self.graph.snapshot()?;
        let mut staging = Vec::new();
        for (id, sink) in &self.sinks {
            // A full queue is a sink that does not get on.
            let answer = tokio::select! {
                biased;
                answer = sink.stage(self.position, leaving.contains(id)) => Some(answer),
                () = waited(sink, Instant::now(), self.consumer.sink.is_some()) => None,
            };
            let answer = answer.transpose().map_err(|Gone| format!("sink `{id}` is gone"))?;
            staging.push(Staging { id: id.clone(), answer, sink: sink.clone() });
        }
        Ok((states, staging))
    }

    fn finish(
        &self,
        staging: Vec<Staging>,
        checkpoint: Checkpoint,
    ) -> impl Future<Output = Result<Saved, String>> + Send + 'static {
        finish(self.shared.clone(), self.plan.clone(), staging, checkpoint)
    }
}

/// Ends when a checkpoint that waits for a sink since `since` shall wait no more. One that is `alone`
/// keeps nobody else waiting.
async fn waited(sink: &SinkHandle, since: Instant, alone: bool) {
    if alone {
        tokio::time::sleep_until(since + SILENT).await;
    } else {
        sink.overdue(since).await;
    }
}

/// A sink that was asked to stage.
pub(super) struct Staging {
    id: Arc<str>,
    /// `None` if it did not even take the question.
    answer: Option<oneshot::Receiver<Result<Staged, SinkError>>>,
    sink: SinkHandle,
}

/// A checkpoint that is on disk and committed.
pub(super) struct Saved {
    position: u64,
    staged: BTreeMap<String, Staged>,
    /// Sinks that did not stage or commit in time; each has a checkpoint of its own now.
    slow: Vec<Arc<str>>,
    /// Sinks that did not commit in time and could not be detached.
    wrong: Vec<String>,
}

/// Waits until everything is staged, renames the checkpoint into place, and only then commits
/// what it names. Sinks that do not get on are left to themselves.
async fn finish(
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    staging: Vec<Staging>,
    mut checkpoint: Checkpoint,
) -> Result<Saved, String> {
    let since = Instant::now();
    let mut sinks = HashMap::new();
    let (mut failed, mut slow, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    // All answers are awaited, also after a failure: a sink that is still staging must not be
    // asked again meanwhile.
    for Staging { id, answer, sink } in staging {
        let answer = match answer {
            Some(answer) => tokio::select! {
                biased;
                answer = answer => Some(answer),
                () = waited(&sink, since, checkpoint.detached.is_some()) => None,
            },
            None => None,
        };
        match answer {
            Some(Ok(Ok(staged))) => {
                checkpoint.sinks.insert(id.to_string(), staged);
                sinks.insert(id, sink);
            }
            Some(Ok(Err(e))) => failed.push(format!("sink `{id}` could not stage: {e}")),
            Some(Err(_)) => failed.push(format!("sink `{id}` is gone")),
            None => slow.push(id),
        }
    }
    if !failed.is_empty() {
        return Err(failed.join("; "));
    }
    let (consumer, mark) = (checkpoint.consumer(), checkpoint.position);
    if consumer.sink.is_some() && !slow.is_empty() {
        return Err("it does not stage".to_owned());
    }
    let staged = checkpoint.sinks.clone();
    failpoint!("checkpoint.staged");
    let oldest = match part_and_save(&shared, plan, checkpoint, &slow).await {
        Ok(oldest) => oldest,
        Err(why) => {
            slow.iter().for_each(|id| detach::keep(&shared, &consumer, id));
            return Err(why);
        }
    };
    failpoint!("checkpoint.renamed");
    let commits = sinks.into_iter().map(|(id, sink)| {
        let work = staged.get(&*id).map(|s| s.work.clone()).unwrap_or_default();
        async move {
            if work.is_empty() {
                sink.committed(mark);
                return Ok(None);
            }
            let done = tokio::time::timeout(SILENT, sink.commit(mark, work)).await;
            failpoint!("checkpoint.committed");
            match done {
                Ok(Ok(())) => {
                    sink.committed(mark);
                    Ok(None)
                }
                Ok(Err(Gone)) => Err(format!("sink `{id}` is gone")),
                Err(_) => Ok(Some(id)),
            }
        }
    });
    for id in futures::future::try_join_all(commits).await?.into_iter().flatten() {
        if consumer.sink.is_some() {
            return Err("it does not commit".to_owned());
        }
        match detach::part(&shared, &consumer, &id).await {
            Ok(()) => slow.push(id),
            Err(why) => wrong.push(why),
        }
    }
    shared.holds.advance(&consumer, oldest);
    tokio::task::spawn_blocking(move || shared.holds.trim());
    Ok(Saved { position: mark, staged, slow, wrong })
}

/// Saves `checkpoint`, and before it the part of each sink that it lacks, from the checkpoint
/// before: what they were given since is in the journal.
async fn part_and_save(
    shared: &Arc<Shared>,
    plan: Arc<PipelinePlan>,
    checkpoint: Checkpoint,
    slow: &[Arc<str>],
) -> Result<u64, String> {
    for id in slow {
        detach::part(shared, &checkpoint.consumer(), id).await?;
    }
    save(shared.clone(), plan, checkpoint).await
}

/// Writes plan and checkpoint. Gives the position of the oldest checkpoint that is kept.
pub(super) async fn save(
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    checkpoint: Checkpoint,
) -> Result<u64, String> {
    let write = move || {
        shared.checkpoints.save_plan(&plan.hash, &plan.bundle)?;
        shared.checkpoints.save(&checkpoint)
    };
    tokio::task::spawn_blocking(write)
        .await
        .map_err(|e| e.to_string())?
        .map_err(|e| format!("checkpoint could not be written: {e}"))
}
