//! Detached sinks: started from their own checkpoints, handed back when they have caught up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::pipeline::{Change, detached};
use super::recovery::Saved;
use super::reload::Known;
use super::{Running, Runtime, pipeline};
use crate::checkpoint::Consumer;
use crate::plan::PipelinePlan;

/// How long a sink that is let go may take to deliver what it had staged.
const SETTLE: Duration = Duration::from_secs(5);
/// A sink that is behind by less than this has caught up, nanoseconds of receive time.
const CAUGHT_UP_NS: i64 = 2_000_000_000;

impl Runtime {
    /// Detached sinks that run or are down.
    pub(super) fn detached(&self) -> BTreeMap<Consumer, Option<Arc<Running>>> {
        let (running, down) = (self.running.lock(), self.down.lock());
        let all = running.keys().chain(down.keys()).filter(|who| who.sink.is_some());
        all.map(|who| (who.clone(), running.get(who).cloned())).collect()
    }

    /// Abandons the detached sinks that loops have dropped with their plans and nobody else has let
    /// go. Gives what people should know.
    pub(super) async fn abandon_dropped(&self) -> Vec<String> {
        let all: Vec<_> = self.running.lock().values().cloned().collect();
        let dropped: Vec<Consumer> =
            all.iter().flat_map(|r| std::mem::take(&mut *r.dropped.lock())).collect();
        let mut notes = Vec::new();
        for who in dropped {
            if self.shared.holds.position(&who).is_some() {
                notes.push(self.abandon(&who).await);
            }
        }
        notes
    }

    /// Starts the detached sinks that do not run, and hands back those that have caught up.
    pub(super) async fn tend_detached(&self, known: &Known) {
        for note in self.abandon_dropped().await {
            tracing::warn!("{note}");
        }
        for plan in known.plans.values() {
            let whole = self.running.lock().get(&Consumer::pipeline(&plan.name)).cloned();
            // At the mark of a change it may take them along.
            let Some(whole) = whole.filter(|r| r.is_as_asked()) else { continue };
            let away = whole.away.lock().clone();
            for sink in away {
                let who = Consumer::detached(&plan.name, &sink);
                if self.is_due(&who) {
                    self.start_detached(&who, plan).await;
                }
            }
        }
        let ready: Vec<_> = {
            let all = self.running.lock();
            let ready = all.iter().filter_map(|(who, r)| {
                let sink = who.sink.clone()?;
                let whole = all.get(&Consumer::pipeline(&who.pipeline))?.clone();
                self.can_join(r, &whole).then(|| (who.clone(), sink, r.clone(), whole))
            });
            ready.collect()
        };
        for (who, sink, part, whole) in ready {
            self.join(who, sink, part, whole).await;
        }
    }

    /// Starts a detached sink from its checkpoint: with the plan that this names, or where the
    /// sink itself is another now, with the present one. An endpoint that was wrong can so be set
    /// right, and gets what has waited.
    pub(super) async fn start_detached(&self, who: &Consumer, present: &Arc<PipelinePlan>) {
        let Some(sink) = &who.sink else { return };
        let started = async {
            let checkpoint = match self.saved(who).await? {
                Saved::Live(checkpoint) => checkpoint,
                Saved::Lost => return Err("all its checkpoints are damaged".to_owned()),
                // It has just come back.
                Saved::Nothing | Saved::Removed(_) => return Ok(None),
            };
            let present = detached(present, sink);
            let plan = match (self.recorded_plan(&checkpoint), present) {
                (Ok(recorded), Ok(present)) if same_sink(&recorded, &present) => recorded,
                (_, Ok(present)) => present,
                (Ok(recorded), Err(_)) => recorded,
                (Err(why), Err(_)) => return Err(why),
            };
            self.go_on(checkpoint, Some(plan)).await.map(Some)
        };
        match started.await {
            Ok(None) => {}
            Ok(Some((running, notes))) => {
                for note in notes {
                    tracing::warn!(pipeline = %who.pipeline, sink = %sink, "{note}");
                }
                self.insert(who.clone(), running);
            }
            // With a plan, so that its backlog counts.
            Err(why) => self.is_down(who, detached(present, sink).ok(), None, &why),
        }
    }

    fn can_join(&self, part: &Running, whole: &Running) -> bool {
        let head = self.shared.journal.head();
        let same = part.plan.lock().hash == whole.plan.lock().hash;
        let well = |r: &Running| {
            let progress = r.progress.lock().clone();
            let well = progress.failed.is_none() && progress.checkpoint_error.is_none();
            well && r.is_as_asked() && pipeline::lag(&progress, head) < CAUGHT_UP_NS
        };
        // It takes, stages and commits: one that is only started may be as dead as before, and its
        // pipeline would wait for it at the mark.
        let saves = part.progress.lock().committed_at > 0;
        same && saves && well(part) && well(whole)
    }

    async fn join(&self, who: Consumer, sink: Arc<str>, part: Arc<Running>, whole: Arc<Running>) {
        let (to, from) = oneshot::channel();
        let pipeline = Consumer::pipeline(&who.pipeline);
        let changes =
            vec![(who, part, Change::Hand(to)), (pipeline, whole, Change::Adopt(sink, from))];
        match self.mark(changes).await {
            Ok(mark) => {
                for (who, result) in self.answers(mark, super::swap::MARK_DEADLINE).await {
                    if let Err(why) = result {
                        tracing::warn!(pipeline = %who.pipeline, error = why, "sink stays detached");
                    }
                }
            }
            Err(error) => tracing::warn!(error, "sinks stay detached"),
        }
    }

    /// Ends a detached sink; it can go on from its checkpoint.
    pub(super) async fn stop_detached(&self, who: &Consumer) {
        let running = self.running.lock().get(who).cloned();
        if let Some(running) = running {
            running.gone().await;
        }
        self.running.lock().remove(who);
        self.down.lock().remove(who);
    }

    /// Lets a detached sink go whose pipeline or definition is gone. What it held is brought to
    /// where it belongs, if that can be done at once. Gives what people should know.
    pub(super) async fn abandon(&self, who: &Consumer) -> String {
        self.stop_detached(who).await;
        let (pipeline, sink) = (&who.pipeline, who.sink.as_deref().unwrap_or_default());
        let mut note =
            format!("sink `{sink}` of pipeline `{pipeline}` was detached and is removed");
        match self.shared.checkpoints.load(who) {
            Ok((Some(checkpoint), _)) => {
                let position = checkpoint.position;
                note += &format!(": what came behind entry {position} was not delivered");
                let settled = tokio::time::timeout(SETTLE, self.settle_sinks(&checkpoint)).await;
                match settled.unwrap_or_else(|_| Err("it took too long".to_owned())) {
                    Ok(()) => {}
                    Err(why) => note += &format!(", nor what it had staged: {why}"),
                }
            }
            Ok((None, _)) => {}
            Err(error) => note += &format!(", its checkpoint could not be read: {error}"),
        }
        self.shared.checkpoints.forget(who);
        self.shared.holds.release(who);
        note
    }
}

/// Whether the sink (the last node of such a plan) is the same in both.
pub(super) fn same_sink(a: &PipelinePlan, b: &PipelinePlan) -> bool {
    let sink = |plan: &PipelinePlan| plan.nodes.last().map(|n| n.resolved.clone());
    a.name == b.name && sink(a) == sink(b)
}
