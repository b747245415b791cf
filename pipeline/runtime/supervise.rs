//! Takes out pipelines whose loop ended, and brings back those that failed.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pipeline::Ended;
use super::reload::Known;
use super::{Running, Runtime};
use crate::checkpoint::Consumer;
use crate::plan::PipelinePlan;

/// Between tries to bring back a pipeline, from first to longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often it is looked after what is down or detached, and the journal is trimmed.
const ROUND: Duration = Duration::from_secs(2);

/// A pipeline that should run and does not, or that came back and may fail again.
pub(super) struct Down {
    /// What it was, where that is known.
    pub(super) plan: Option<Arc<PipelinePlan>>,
    pub(super) why: String,
    /// Position of its last checkpoint, where that is known.
    committed: Option<u64>,
    /// Times that it came up and got no further.
    tries: u32,
    again: Instant,
}

/// Until the runtime stops.
pub(super) async fn run(runtime: Arc<Runtime>) {
    let stop = runtime.stop.clone();
    loop {
        let ended = tokio::time::timeout(ROUND, runtime.shared.ended.notified());
        let Some(ended) = stop.run_until_cancelled(ended).await else { return };
        if ended.is_err() {
            let shared = runtime.shared.clone();
            tokio::task::spawn_blocking(move || shared.holds.trim());
        }
        let mut known = runtime.reloading.lock().await;
        if !stop.is_cancelled() {
            runtime.settle(&mut known).await;
        }
    }
}

impl Runtime {
    /// Clears away what ended, and starts what should run and does not.
    pub(super) async fn settle(&self, known: &mut Known) {
        self.clear().await;
        self.set_backlogs(known);
        if known.unfinished {
            self.reload_again(known).await;
            return;
        }
        let wanted = known.plans.values().filter(|p| !self.must_wait(p, &known.plans)).cloned();
        // One that is renamed or removed in the files has to come back first.
        let gone: Vec<_> = {
            let down = self.down.lock();
            let gone = down
                .iter()
                .filter(|(who, _)| who.sink.is_none() && !known.plans.contains_key(&who.pipeline));
            gone.filter_map(|(_, d)| d.plan.clone()).collect()
        };
        for plan in wanted.chain(gone) {
            if self.is_due(&Consumer::pipeline(&plan.name)) {
                for event in self.bring_up(&plan, None).await {
                    tracing::warn!("{event}");
                }
            }
        }
        self.tend_detached(known).await;
        // What came back as it was when it failed can now become what the files say.
        let changed = |(who, r): (&Consumer, &Arc<Running>)| {
            let wanted = known.plans.get(&who.pipeline);
            wanted.is_none_or(|w| w.hash != r.plan.lock().hash) && r.is_as_asked()
        };
        if self.running.lock().iter().any(changed) {
            self.reload_again(known).await;
        }
    }

    /// Backlogs hold at once: who is past one may be far from the mark of the change.
    fn set_backlogs(&self, known: &Known) {
        for (who, running) in &*self.running.lock() {
            let wanted = known.plans.get(&who.pipeline);
            let wanted = wanted.and_then(|plan| plan.backlog_of(who.sink.as_deref()));
            let mut plan = running.plan.lock();
            if let Some(backlog) = wanted
                && backlog != plan.backlog
            {
                *plan = Arc::new(PipelinePlan { backlog, ..PipelinePlan::clone(&plan) });
            }
        }
    }

    /// Whether it does not run, and it is time to try again.
    pub(super) fn is_due(&self, who: &Consumer) -> bool {
        let waits = self.down.lock().get(who).is_some_and(|d| d.again > Instant::now());
        !waits && !self.running.lock().contains_key(who)
    }

    /// Takes out the pipelines and sinks whose loop ended and that have nothing under way any more.
    pub(super) async fn clear(&self) {
        let ended: Vec<_> = {
            let all = self.running.lock();
            all.iter().filter_map(|(who, r)| Some((who.clone(), r.clone(), r.ended()?))).collect()
        };
        for (who, running, end) in ended {
            // A sink that was handed back works on for its pipeline.
            let handed = matches!(end, Ended::Removed) && who.sink.is_some();
            if !handed && !running.gone().await {
                continue;
            }
            self.running.lock().remove(&who);
            match end {
                Ended::Removed if !handed => {
                    self.shared.holds.release(&who);
                    self.shared.telemetry.retain(|l| l.pipeline != who.pipeline);
                    // It may have let go of a sink at the very end.
                    let sinks = self.shared.checkpoints.parts(&who.pipeline).unwrap_or_default();
                    for sink in sinks {
                        let part = Consumer::detached(&who.pipeline, &sink);
                        tracing::warn!("{}", self.abandon(&part).await);
                    }
                }
                Ended::Removed | Ended::Stopped => {}
                Ended::Failed(why) => {
                    let plan = running.plan.lock().clone();
                    // One that failed before the mark of its renaming has its old name still.
                    let was = Consumer { pipeline: plan.name.clone(), sink: who.sink.clone() };
                    if was != who {
                        self.shared.holds.release(&who);
                    }
                    self.shared.poison.failed(&was);
                    let committed = running.progress.lock().committed;
                    self.is_down(&was, Some(plan), Some(committed), &why);
                }
            }
        }
    }

    /// Notes that it does not run; it is tried again, later each time that it got no further than
    /// `committed`.
    pub(super) fn is_down(
        &self,
        who: &Consumer,
        plan: Option<Arc<PipelinePlan>>,
        committed: Option<u64>,
        why: &str,
    ) {
        let sink = who.sink.as_deref();
        tracing::error!(pipeline = %who.pipeline, sink, error = why, "down, trying again");
        let mut all = self.down.lock();
        let before = all.remove(who);
        let stuck = before.as_ref().filter(|d| committed.is_none() || d.committed == committed);
        let tries = stuck.map_or(0, |d| d.tries + 1);
        let pause = (AGAIN.0 * 2u32.saturating_pow(tries.min(16))).min(AGAIN.1);
        let plan = plan.or(before.and_then(|d| d.plan));
        let (why, again) = (why.to_owned(), Instant::now() + pause);
        all.insert(who.clone(), Down { plan, why, committed, tries, again });
    }
}
