//! Takes out pipelines whose loop ended, and brings back those that failed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::pipeline::Ended;
use super::reload::Known;
use super::{Running, Runtime};
use crate::plan::PipelinePlan;

/// Between tries to bring back a pipeline, from first to longest.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How often it is looked after what is down, and the journal is trimmed.
const ROUND: Duration = Duration::from_secs(5);

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
        if known.unfinished {
            self.reload_known(known).await;
            return;
        }
        for plan in known.plans.values() {
            let running = self.pipelines.lock().contains_key(&plan.name);
            let waits = self.down.lock().get(&plan.name).is_some_and(|d| d.again > Instant::now());
            if running || waits {
                continue;
            }
            for event in self.bring_up(plan, None).await {
                tracing::warn!("{event}");
            }
        }
        // As it was when it failed; now it can become what the files say.
        let changed = |r: &Arc<Running>| {
            let plan = r.plan.lock();
            let wanted = known.plans.get(&plan.name);
            wanted.is_some_and(|w| w.hash != plan.hash) && r.is_as_asked()
        };
        if self.pipelines.lock().values().any(changed) {
            self.reload_known(known).await;
        }
    }

    /// Takes out the pipelines whose loop ended.
    pub(super) async fn clear(&self) {
        let ended: BTreeMap<_, _> = {
            let mut all = self.pipelines.lock();
            let ended = all.iter().filter_map(|(n, r)| Some((n.clone(), r.ended()?)));
            let ended: Vec<_> = ended.collect();
            ended.into_iter().filter_map(|(n, e)| all.remove(&n).map(|r| (n, (r, e)))).collect()
        };
        for (name, (running, end)) in ended {
            running.gone().await;
            match end {
                Ended::Removed => {
                    self.shared.holds.release(&name);
                    self.shared.telemetry.retain(|l| l.pipeline != name);
                }
                Ended::Stopped => {}
                Ended::Failed(why) => {
                    let committed = running.progress.lock().committed;
                    self.is_down(&name, Some(running.plan.lock().clone()), Some(committed), &why);
                }
            }
        }
    }

    /// Notes that a pipeline does not run; it is tried again, later each time that it got no
    /// further than `committed`.
    pub(super) fn is_down(
        &self,
        name: &Arc<str>,
        plan: Option<Arc<PipelinePlan>>,
        committed: Option<u64>,
        why: &str,
    ) {
        tracing::error!(pipeline = %name, error = why, "pipeline is down, trying again");
        let mut all = self.down.lock();
        let before = all.remove(name);
        let stuck = before.as_ref().filter(|d| committed.is_none() || d.committed == committed);
        let tries = stuck.map_or(0, |d| d.tries + 1);
        let pause = (AGAIN.0 * 2u32.saturating_pow(tries.min(16))).min(AGAIN.1);
        let plan = plan.or(before.and_then(|d| d.plan));
        let (why, again) = (why.to_owned(), Instant::now() + pause);
        all.insert(name.clone(), Down { plan, why, committed, tries, again });
    }
}
