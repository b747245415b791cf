//! A sink that does not get on is detached: from its part of the last checkpoint (plan, position,
//! state of the nodes above it, what it staged) it becomes a consumer of its own, which replays
//! from the journal. When it has caught up, it is handed back at a common mark.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::Shared;
use super::super::sink::{Given, Gone, SinkHandle};
use super::change::AGAIN;
use super::run::{End, Loop};
use crate::backlog::Policy;
use crate::checkpoint::{Checkpoint, Consumer};
use crate::component::Staged;
use crate::intake::now;
use crate::journal::Trimmed;
use crate::plan::PipelinePlan;

/// How long a pipeline waits at the mark for a sink that comes back.
const HAND_OVER: Duration = Duration::from_secs(5);

/// A sink on its way back to its pipeline.
pub(in super::super) struct Handed {
    sink: SinkHandle,
    carry: Vec<u8>,
    /// Told when the pipeline has it; dropped if it does not want it after all.
    taken: oneshot::Sender<()>,
}

/// Saves the part that the sink `id` has in the newest checkpoint of its pipeline as a checkpoint
/// of its own. It is detached when a later checkpoint of the pipeline does not have it.
pub(super) async fn part(shared: &Arc<Shared>, whole: &Consumer, id: &str) -> Result<(), String> {
    let (shared, whole, id) = (shared.clone(), whole.clone(), id.to_owned());
    let save = move || {
        let failed = |e| format!("sink `{id}` cannot be detached: {e}");
        let (newest, _) = shared.checkpoints.load(&whole).map_err(failed)?;
        let newest =
            newest.ok_or_else(|| format!("pipeline `{}` has no checkpoint", whole.pipeline))?;
        let who = Consumer::detached(&whole.pipeline, &id);
        shared.holds.take(&who, || newest.position);
        let staged = newest.sinks.get(&id).cloned().unwrap_or_default();
        let part = Checkpoint {
            detached: Some(id.clone()),
            sinks: [(id.clone(), staged)].into(),
            renamed: None,
            ..newest
        };
        // One that an earlier try left must not stand beside it.
        shared.checkpoints.forget(&who);
        if let Err(error) = shared.checkpoints.save(&part) {
            keep(&shared, &whole, &id);
            return Err(failed(error));
        }
        tracing::error!(
            pipeline = %whole.pipeline,
            sink = id,
            position = part.position,
            "sink does not get on: it is detached and goes on by itself, the others are not held up"
        );
        Ok(())
    };
    tokio::task::spawn_blocking(save).await.map_err(|e| e.to_string())?
}

/// Takes back what [`part`] did: the sink stays with its pipeline.
pub(super) fn keep(shared: &Shared, whole: &Consumer, id: &str) {
    let who = Consumer::detached(&whole.pipeline, id);
    shared.checkpoints.forget(&who);
    shared.holds.release(&who);
}

/// The part of `plan` that a detached sink runs.
///
/// # Errors
/// If the plan has no such sink.
pub(in super::super) fn detached(
    plan: &PipelinePlan,
    sink: &str,
) -> Result<Arc<PipelinePlan>, String> {
    let part = plan.only(sink).map(Arc::new);
    part.ok_or_else(|| format!("pipeline `{}` has no sink `{sink}`", plan.name))
}

impl Loop {
    /// Hands something to a sink; waits while its queue is full, but not for ever.
    pub(super) async fn give(&mut self, id: &Arc<str>, given: Given) -> Result<(), End> {
        // One that is by itself already keeps nobody waiting.
        let alone = self.consumer.sink.is_some();
        loop {
            let Some(sink) = self.sinks.get(id) else { return Ok(()) };
            let taken = tokio::select! {
                biased;
                taken = sink.give(given.clone()) => Some(taken),
                () = sink.overdue(Instant::now()), if !alone => None,
            };
            match taken {
                Some(Ok(())) => return Ok(()),
                Some(Err(Gone)) => return Err(self.gone(id)),
                None => self.detach(id).await,
            }
        }
    }

    /// Where it cannot be (the disk refuses, perhaps), it is waited for a little longer.
    async fn detach(&mut self, id: &Arc<str>) {
        // It may find out the same.
        self.finish_checkpoint().await;
        if !self.sinks.contains_key(id) {
            return;
        }
        match part(&self.shared, &self.consumer, id).await {
            Ok(()) => self.let_go(vec![id.clone()]),
            Err(why) => {
                self.note_failure(why);
                tokio::time::sleep(AGAIN).await;
            }
        }
    }

    /// Ends the tasks of sinks that are detached; others start them anew from their checkpoints.
    pub(super) fn let_go(&mut self, slow: Vec<Arc<str>>) {
        for id in slow {
            if let Some(sink) = self.sinks.remove(&id) {
                sink.cancel();
                self.away.lock().insert(id);
                self.shared.ended.notify_one();
            }
        }
    }

    /// Gives the only sink back to its pipeline, and waits until that has it: there is never more
    /// than one of it. The checkpoint that it saves first is the last of its own.
    pub(super) async fn hand(&mut self, to: oneshot::Sender<Handed>) -> Result<(), String> {
        let (_, staged) = self.checkpoint_now(&[], false).await?;
        let Some(id) = self.consumer.sink.clone() else {
            return Err("it is not detached".to_owned());
        };
        let Some(sink) = self.sinks.get(&id).cloned() else {
            return Err("its sink is gone".to_owned());
        };
        let carry = staged.get(&*id).map(|s| s.carry.clone()).unwrap_or_default();
        let (taken, answer) = oneshot::channel();
        let handed = to.send(Handed { sink, carry, taken });
        if handed.is_err() || answer.await.is_err() {
            return Err("its pipeline did not take it".to_owned());
        }
        self.sinks.remove(&id);
        Ok(())
    }

    /// Takes a sink back that has caught up to this mark.
    pub(super) async fn adopt(
        &mut self,
        id: &Arc<str>,
        from: oneshot::Receiver<Handed>,
    ) -> Result<(), String> {
        let handed = tokio::time::timeout(HAND_OVER, from).await;
        let Ok(Ok(Handed { sink, carry, taken })) = handed else {
            return Err(format!("sink `{id}` did not come to the mark"));
        };
        // It has staged and committed at this mark itself.
        self.adopted = Some((id.to_string(), Staged { work: Vec::new(), carry }));
        let saved = self.checkpoint_now(&[], false).await;
        self.adopted = None;
        saved?;
        let who = Consumer::detached(&self.consumer.pipeline, id);
        self.shared.checkpoints.forget(&who);
        self.shared.holds.release(&who);
        self.away.lock().remove(id);
        let task = sink.clone();
        self.tasks.spawn(async move { task.ended().await });
        self.sinks.insert(id.clone(), sink);
        // It waits for nothing else.
        let _ = taken.send(());
        tracing::info!(pipeline = %self.consumer.pipeline, sink = %id, "sink has caught up and is back");
        Ok(())
    }

    /// What it needs was trimmed. One that skips what is past its backlog goes on behind the gap.
    pub(super) fn skip(&mut self, gap: Trimmed) -> Option<End> {
        if self.shown.lock().backlog.policy != Policy::Skip {
            return Some(End::Failed(gap.to_string()));
        }
        tracing::error!(
            pipeline = %self.consumer.pipeline,
            sink = self.consumer.sink.as_deref(),
            behind = gap.after,
            to = gap.to,
            "past its backlog: entries that the journal no longer has are skipped"
        );
        let about = "Stretches of the journal skipped past a backlog";
        self.shared.telemetry.count("weir_backlog_skips_total", about, 1.0);
        self.reader = self.shared.journal.reader(gap.to);
        self.shared.gaps.add(&self.consumer, gap.after, gap.to, now());
        None
    }
}
