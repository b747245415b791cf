//! Checkpoints of a running pipeline: stage, rename into place, commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::super::Shared;
use super::super::sink::{Gone, SinkHandle};
use super::run::{End, Loop};
use crate::checkpoint::Checkpoint;
use crate::component::{SinkError, Staged};
use crate::graph::States;
use crate::intake::now;
use crate::plan::PipelinePlan;

/// A checkpoint is due after this much running time, nanoseconds.
const EVERY_NS: i64 = 30_000_000_000;
/// ... or after this many bytes of decoded rows.
const EVERY_BYTES: u64 = 256 << 20;
/// After a checkpoint that failed the next try waits this long, nanoseconds of running time; so
/// long also between checkpoints while the journal is filling up, so that it can be trimmed.
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
        let filling = self.shared.journal.is_filling() && elapsed >= due - EVERY_NS + SOON_NS;
        elapsed >= due || filling || self.bytes_since >= EVERY_BYTES
    }

    pub(super) async fn checkpoint_if_due(&mut self) -> Result<(), End> {
        let busy = self.checkpointing.as_ref().is_some_and(|task| !task.is_finished());
        if busy || !self.is_due() {
            return Ok(());
        }
        self.finish_checkpoint().await;
        if !self.is_due() {
            return Ok(());
        }
        self.due_at = Some(self.tick.elapsed + EVERY_NS);
        self.bytes_since = 0;
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
            Ok(position) => self.note_success(position),
            Err(why) => self.note_failure(why),
        }
    }

    fn note_success(&self, position: u64) {
        let mut progress = self.progress.lock();
        progress.committed = position;
        progress.committed_at = now();
        progress.checkpoint_error = None;
    }

    pub(super) fn note_failure(&mut self, why: String) {
        tracing::warn!(pipeline = %self.plan.name, error = why, "checkpoint failed, trying again");
        self.due_at = Some(self.tick.elapsed + SOON_NS);
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
        let (states, staged) = self.stage(leaving).await?;
        let staged = collect(staged).await?;
        let checkpoint = self.describe(&self.plan, states.clone(), staged.clone(), removed);
        finish(self.shared.clone(), self.plan.clone(), checkpoint, self.sinks.clone()).await?;
        Ok((states, staged))
    }

    /// Takes the states and asks the sinks to stage; the rest runs beside the loop.
    async fn begin_checkpoint(&mut self) -> Result<JoinHandle<Result<u64, String>>, String> {
        let (states, staged) = self.stage(&[]).await?;
        let mut checkpoint = self.describe(&self.plan, states, BTreeMap::new(), false);
        let (shared, plan, sinks) = (self.shared.clone(), self.plan.clone(), self.sinks.clone());
        Ok(tokio::spawn(async move {
            checkpoint.sinks = collect(staged).await?;
            finish(shared, plan, checkpoint, sinks).await
        }))
    }

    async fn stage(&mut self, leaving: &[Arc<str>]) -> Result<(States, Vec<Staging>), String> {
        let states = self.graph.snapshot()?;
        let mut staged = Vec::new();
        for (id, sink) in &self.sinks {
            let answer = sink.stage(self.position, leaving.contains(id)).await;
            staged.push((id.clone(), answer.map_err(|Gone| format!("sink `{id}` is gone"))?));
        }
        Ok((states, staged))
    }
}

type Staging = (Arc<str>, oneshot::Receiver<Result<Staged, SinkError>>);

async fn collect(staging: Vec<Staging>) -> Result<BTreeMap<String, Staged>, String> {
    let mut all = BTreeMap::new();
    let mut failed = Vec::new();
    // All answers are awaited, also after a failure: a sink that is still staging must not be
    // asked again meanwhile.
    for (id, answer) in staging {
        match answer.await {
            Ok(Ok(staged)) => {
                all.insert(id.to_string(), staged);
            }
            Ok(Err(e)) => failed.push(format!("sink `{id}` could not stage: {e}")),
            Err(_) => failed.push(format!("sink `{id}` is gone")),
        }
    }
    if failed.is_empty() { Ok(all) } else { Err(failed.join("; ")) }
}

/// Renames the checkpoint into place; only then commits what it names.
async fn finish(
    shared: Arc<Shared>,
    plan: Arc<PipelinePlan>,
    checkpoint: Checkpoint,
    sinks: HashMap<Arc<str>, SinkHandle>,
) -> Result<u64, String> {
    let mark = checkpoint.position;
    let work: Vec<_> =
        checkpoint.sinks.iter().map(|(id, s)| (id.clone(), s.work.clone())).collect();
    let name = plan.name.clone();
    let oldest = save(shared.clone(), plan, checkpoint).await?;
    let commits = work.into_iter().filter(|(_, work)| !work.is_empty()).map(|(id, work)| {
        let sink = sinks.get(id.as_str()).cloned();
        async move {
            match sink {
                Some(sink) => {
                    sink.commit(mark, work).await.map_err(|Gone| format!("sink `{id}` is gone"))
                }
                None => Ok(()),
            }
        }
    });
    futures::future::try_join_all(commits).await?;
    shared.holds.advance(&name, oldest);
    tokio::task::spawn_blocking(move || shared.holds.trim());
    Ok(mark)
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
