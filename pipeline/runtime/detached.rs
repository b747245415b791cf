//! Detached sinks: started from their own checkpoints, handed back when they have caught up.

use std::sync::Arc;

use tokio::sync::oneshot;

use super::pipeline::{Change, detached};
use super::recovery::Saved;
use super::reload::Known;
use super::{Running, Runtime, pipeline};
use crate::checkpoint::Consumer;
use crate::plan::PipelinePlan;

/// A sink that is behind by less than this has caught up, nanoseconds of receive time.
const CAUGHT_UP_NS: i64 = 2_000_000_000;

impl Runtime {
    /// Starts the detached sinks that do not run, and hands back those that have caught up.
    pub(super) async fn tend_detached(&self, known: &Known) {
        for plan in known.plans.values() {
            let sinks = match self.shared.checkpoints.detached(&plan.name) {
                Ok(sinks) => sinks,
                Err(error) => {
                    tracing::warn!(%error, "detached sinks are not looked after");
                    continue;
                }
            };
            for sink in sinks {
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
            let Saved::Live(checkpoint) = self.saved(who).await? else {
                return Err("it has no checkpoint that can be gone on from".to_owned());
            };
            let present = detached(present, sink);
            let plan = match (self.recorded_plan(&checkpoint), present) {
                (Ok(recorded), Ok(present)) if same_sink(&recorded, &present) => recorded,
                (_, Ok(present)) => present,
                (Ok(recorded), Err(_)) => recorded,
                (Err(why), Err(_)) => return Err(why),
            };
            self.go_on(checkpoint, Some(plan)).await
        };
        match started.await {
            Ok((running, notes)) => {
                for note in notes {
                    tracing::warn!(pipeline = %who.pipeline, sink = %sink, "{note}");
                }
                self.insert(who.clone(), running);
            }
            Err(why) => self.is_down(who, None, None, &why),
        }
    }

    fn can_join(&self, part: &Running, whole: &Running) -> bool {
        let head = self.shared.journal.head();
        let progress = part.progress.lock().clone();
        let same = part.plan.lock().hash == whole.plan.lock().hash;
        let quiet = part.is_as_asked() && whole.is_as_asked();
        let well = progress.failed.is_none() && progress.checkpoint_error.is_none();
        same && quiet && well && pipeline::lag(&progress, head) < CAUGHT_UP_NS
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

    /// Lets a detached sink go whose pipeline or definition is gone. Gives what people should know.
    pub(super) async fn abandon(&self, who: &Consumer) -> String {
        let running = self.running.lock().remove(who);
        if let Some(running) = running {
            running.gone().await;
        }
        self.down.lock().remove(who);
        let position = match self.shared.checkpoints.load(who) {
            Ok((Some(checkpoint), _)) => checkpoint.position,
            _ => 0,
        };
        self.shared.checkpoints.forget(who);
        self.shared.holds.release(who);
        let (pipeline, sink) = (&who.pipeline, who.sink.as_deref().unwrap_or_default());
        format!(
            "sink `{sink}` of pipeline `{pipeline}` was detached and is removed: what came behind \
             entry {position} was not delivered"
        )
    }
}

/// Whether the sink (the last node of such a plan) is the same in both.
pub(super) fn same_sink(a: &PipelinePlan, b: &PipelinePlan) -> bool {
    let sink = |plan: &PipelinePlan| plan.nodes.last().map(|n| n.resolved.clone());
    a.name == b.name && sink(a) == sink(b)
}
