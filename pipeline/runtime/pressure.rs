//! Who is too far behind, and what follows: sources that refuse, entries that are given up.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::{Progress, Runtime, pipeline};
use crate::admission::Held;
use crate::backlog::{Backlog, Policy};
use crate::checkpoint::Consumer;
use crate::plan::{PipelinePlan, sources_read};

/// How often it is looked.
const ROUND: Duration = Duration::from_millis(250);
/// What a sender is told to wait: checkpoints come every 5 s when it is tight.
const RETRY: Duration = Duration::from_secs(5);

/// A consumer and what it holds.
struct Consuming {
    who: Consumer,
    plan: Arc<PipelinePlan>,
    /// Bytes of journal that cannot be trimmed for it.
    held: u64,
    limit: u64,
    /// Bytes of journal that it has not read, and how long ago they came, nanoseconds: at most as
    /// long as it runs, since what came before it could not have read.
    unread: u64,
    lag_ns: i64,
    /// What memory holds for readers that keep up, bytes: who is behind by less is not
    /// overloaded, but was away.
    in_memory: u64,
    /// Whether it runs and saves, and so lets go of the rest soon.
    saves: bool,
}

/// Until the runtime stops.
pub(super) async fn run(runtime: Arc<Runtime>) {
    let stop = runtime.stop.clone();
    let mut announced = BTreeSet::new();
    let mut pulse = tokio::time::interval(ROUND);
    pulse.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(pulse.tick()).await.is_some() {
        let all = runtime.consuming();
        runtime.look_at(&all);
        announce(&all, &mut announced);
    }
}

impl Runtime {
    fn consuming(&self) -> Vec<Consuming> {
        let journal = &self.shared.journal;
        let (head, options) = (journal.head(), journal.options());
        let held = self.shared.holds.all();
        let mut all = Vec::new();
        for (who, position) in held {
            let running = self.running.lock().get(&who).cloned();
            let plan = match &running {
                Some(running) => Some(running.plan.lock().clone()),
                None => self.down.lock().get(&who).and_then(|d| d.plan.clone()),
            };
            let plan = plan.or_else(|| self.waiting.plan(&who));
            let Some(plan) = plan else { continue };
            let progress = running.as_ref().map(|r| r.progress.lock().clone());
            let read = progress.as_ref().map_or(position, |p| p.position.max(position));
            let runs = running.as_ref().map_or(Duration::ZERO, |r| r.began.elapsed());
            let runs = i64::try_from(runs.as_nanos()).unwrap_or(i64::MAX);
            let failing = |p: &Progress| p.failed.is_some() || p.checkpoint_error.is_some();
            let consuming = Consuming {
                saves: who.sink.is_none() && progress.as_ref().is_some_and(|p| !failing(p)),
                held: journal.bytes_behind(position),
                limit: plan.backlog.limit.of(options.max_bytes),
                unread: journal.bytes_behind(read),
                in_memory: options.memory_bytes as u64,
                lag_ns: progress.map_or(0, |p| pipeline::lag(&p, head).min(runs)),
                who,
                plan,
            };
            if let Some(running) = running {
                let mut progress = running.progress.lock();
                progress.held_bytes = consuming.held;
                progress.behind_bytes = consuming.behind();
                progress.backlog_bytes = consuming.limit;
            }
            all.push(consuming);
        }
        all
    }

    fn look_at(&self, all: &[Consuming]) {
        let mut refused: HashMap<Arc<str>, Held> = HashMap::new();
        let mut limits = HashMap::new();
        for c in all {
            if c.plan.backlog.policy == Policy::Skip {
                limits.insert(c.who.clone(), c.limit);
            }
            let Some(held) = c.refusal() else { continue };
            for source in sources_read(&c.plan.nodes) {
                refused.entry(source).or_insert_with(|| held.clone());
            }
        }
        self.shared.holds.limit(limits);
        self.shared.gate.hold(refused);
        let telemetry = &self.shared.telemetry;
        for c in all {
            let name = |metric: &str| {
                let pipeline = super::escape(&c.who.pipeline);
                let sink = c.who.sink.as_deref().unwrap_or_default();
                format!("{metric}{{pipeline=\"{pipeline}\",sink=\"{sink}\"}}")
            };
            let about = "Journal that cannot be trimmed for a pipeline or detached sink";
            telemetry.gauge(&name("weir_backlog_bytes"), about, c.held as f64);
            let about = "What it may be at most";
            telemetry.gauge(&name("weir_backlog_limit_bytes"), about, c.limit as f64);
        }
        let about = "Entries of the journal that are skipped because pipelines died at them";
        telemetry.gauge("weir_entries_skipped", about, self.skipped().len() as f64);
        for (pipeline, sink, bytes) in self.shared.rows.held() {
            let pipeline = super::escape(&pipeline);
            let series =
                format!("weir_memory_rows_bytes{{pipeline=\"{pipeline}\",sink=\"{sink}\"}}");
            let about = "Rows in memory that no committed file holds yet, or that a query reads";
            telemetry.gauge(&series, about, bytes as f64);
        }
    }
}

impl Consuming {
    /// Why its sources take nothing now, if so.
    fn refusal(&self) -> Option<Held> {
        let Backlog { policy, max_lag, limit } = self.plan.backlog;
        let name = self.name();
        let behind = self.behind();
        if policy == Policy::Refuse && behind > self.limit {
            let why = format!("{name} is {} behind, past its backlog of {limit}", mib(behind));
            return Some(Held {
                reason: "backlog",
                why: why.into(),
                overload: false,
                retry_after: RETRY,
            });
        }
        let late = self.lag_ns > i64::try_from(max_lag.as_nanos()).unwrap_or(i64::MAX);
        if self.who.sink.is_none() && late && self.unread > self.in_memory {
            let seconds = self.lag_ns / 1_000_000_000;
            let why = format!("{name} cannot keep up: it is {seconds} s behind");
            return Some(Held {
                reason: "lag",
                why: why.into(),
                overload: true,
                retry_after: RETRY,
            });
        }
        None
    }

    /// Bytes that count against its backlog: what is read and only waits for the next checkpoint
    /// does not.
    fn behind(&self) -> u64 {
        if self.saves { self.unread } else { self.held }
    }

    fn name(&self) -> String {
        let pipeline = &self.who.pipeline;
        match &self.who.sink {
            None => format!("pipeline `{pipeline}`"),
            Some(sink) => format!("detached sink `{sink}` of pipeline `{pipeline}`"),
        }
    }
}

/// Says once that half of a backlog is reached, and again only after it was below a quarter.
fn announce(all: &[Consuming], announced: &mut BTreeSet<Consumer>) {
    let held: BTreeMap<_, _> = all.iter().map(|c| (&c.who, c)).collect();
    announced.retain(|who| held.get(who).is_some_and(|c| c.behind() > c.limit / 4));
    for c in all.iter().filter(|c| c.behind() > c.limit / 2) {
        if announced.insert(c.who.clone()) {
            let then = match c.plan.backlog.policy {
                Policy::Refuse => "past it the sources that it reads refuse data",
                Policy::Skip => "past it entries are skipped",
            };
            tracing::warn!(
                "{} is {} behind, more than half of its backlog ({}): {then}",
                c.name(),
                mib(c.behind()),
                mib(c.limit)
            );
        }
    }
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
