//! What happens at a mark. It cannot fail: what the disk refuses is tried again, and the pipeline
//! goes no further meanwhile.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::Shared;
use super::super::sink::SinkHandle;
use super::run::{End, Loop};
use super::{Answer, AtMark, BuiltSink, Change, Ended, Swap, build_sink, save};
use crate::checkpoint::Consumer;
use crate::component::Staged;
use crate::failpoint;
use crate::graph::{Graph, States};
use crate::plan::{NodePlan, PipelinePlan};

/// Between tries at what has to succeed before more is read.
pub(super) const AGAIN: Duration = Duration::from_secs(1);
/// A mark that is not reached within this time is far. A stop takes at most ten seconds in all.
const FAR: Duration = Duration::from_secs(2);

impl Loop {
    /// Does what waits for this mark. Returns whether that saved a checkpoint.
    pub(super) async fn mark(&mut self, mark: u64) -> Result<bool, End> {
        match self.changes.take(mark) {
            Some(change) => self.make(change).await,
            None => Ok(false),
        }
    }

    /// Stops at any tick if the mark is far: a stop has to be over in time.
    pub(super) async fn stop_if_asked(&mut self) -> Result<(), End> {
        let Some(mark) = self.changes.stop() else { return Ok(()) };
        if self.stops_since.get_or_insert_with(Instant::now).elapsed() >= FAR {
            self.mark(mark).await?;
        }
        Ok(())
    }

    async fn make(&mut self, AtMark { change, reply }: AtMark) -> Result<bool, End> {
        self.finish_checkpoint().await;
        let (result, end) = match change {
            // It ends even if its checkpoint failed: the journal has everything.
            Change::Stop => {
                let saved = self.checkpoint_now(&[], false).await;
                (saved.map(|_| Vec::new()), Some(Ended::Stopped))
            }
            Change::Remove => {
                self.remove().await?;
                (Ok(Vec::new()), Some(Ended::Removed))
            }
            Change::Swap(swap) => (Ok(self.swap(swap).await?), None),
            Change::Hand(to) => match self.hand(to).await {
                Ok(()) => (Ok(Vec::new()), Some(Ended::Removed)),
                Err(why) => (Err(why), None),
            },
            Change::Adopt(sink, from) => (self.adopt(&sink, from).await.map(|()| vec![]), None),
        };
        let answer = Answer { reply, result };
        match end {
            Some(ended) => Err(End::Asked(ended, answer)),
            None => {
                answer.give();
                Ok(true)
            }
        }
    }

    async fn remove(&mut self) -> Result<(), End> {
        let mut to_sinks = Vec::new();
        self.graph.flush(self.tick, &|_| true, &mut to_sinks);
        self.send(to_sinks).await?;
        let all: Vec<Arc<str>> = self.sinks.keys().cloned().collect();
        while self.checkpoint_now(&all, true).await.is_err() {
            self.all_there()?;
            tokio::time::sleep(AGAIN).await;
        }
        Ok(())
    }

    async fn swap(&mut self, swap: Swap) -> Result<Vec<String>, End> {
        let Swap { plan, sinks: mut built } = swap;
        let leaving: Vec<Arc<str>> = self
            .plan
            .nodes
            .iter()
            .filter(|n| self.sinks.contains_key(&n.id) && !keeps_sink(&self.plan, &plan, n))
            .map(|n| n.id.clone())
            .collect();
        let mut to_sinks = Vec::new();
        let gone = |id: &str| is_gone(&self.plan, &plan, id);
        self.graph.flush(self.tick, &gone, &mut to_sinks);
        self.send(to_sinks).await?;
        let (states, staged) = loop {
            match self.checkpoint_now(&leaving, false).await {
                Ok(saved) => break saved,
                Err(_) => self.all_there()?,
            }
            tokio::time::sleep(AGAIN).await;
        };
        failpoint!("reload.saved");
        let telemetry = self.shared.graph_telemetry(&self.consumer);
        let mut graph = Graph::build(&plan, &telemetry, self.taps.clone());
        graph.set_now(self.tick.time);
        let notes = graph.restore(&plan, &states);
        let mut sinks = HashMap::new();
        let (away, dropped): (BTreeSet<_>, BTreeSet<_>) =
            self.away.lock().iter().cloned().partition(|id| plan.nodes.iter().any(|n| n.id == *id));
        let dropped = dropped.iter().map(|id| Consumer::detached(&self.consumer.pipeline, id));
        self.dropped.lock().extend(dropped);
        for node in plan.nodes.iter().filter(|n| !away.contains(&n.id)) {
            let sink = match self.sinks.get(&node.id).filter(|_| !leaving.contains(&node.id)) {
                Some(sink) => Some(sink.clone()),
                None => self.start_sink(&plan, node, built.remove(&node.id)).await,
            };
            sinks.extend(sink.map(|s| (node.id.clone(), s)));
        }
        let carried = staged.into_iter().filter(|(id, _)| sinks.contains_key(id.as_str()));
        let carried =
            carried.map(|(id, s)| (id, Staged { work: Vec::new(), carry: s.carry })).collect();
        // An operator that just took over a state can say it.
        let states: States = graph.snapshot().map_err(End::Failed)?;
        let mut checkpoint = self.describe(&plan, states, carried, false);
        let renamed = (plan.name != self.plan.name).then(|| self.plan.name.clone());
        checkpoint.renamed = renamed.as_deref().map(str::to_owned);
        failpoint!("reload.built");
        // From here on a crash starts with the new plan.
        while let Err(why) = save::save(self.shared.clone(), plan.clone(), checkpoint.clone()).await
        {
            self.note_failure(why);
            tokio::time::sleep(AGAIN).await;
        }
        failpoint!("reload.swapped");
        if let Some(before) = renamed {
            for id in &away {
                let part = Consumer::detached(&before, id);
                while let Err(why) = rename_part(&self.shared, &part, &self.plan, &plan).await {
                    self.note_failure(why);
                    tokio::time::sleep(AGAIN).await;
                }
            }
            self.shared.checkpoints.forget(&self.consumer);
            self.shared.holds.release(&self.consumer);
            self.shared.telemetry.retain(|l| l.pipeline != before);
        }
        self.consumer.pipeline = plan.name.clone();
        self.graph = graph;
        self.sinks = sinks;
        *self.away.lock() = away;
        *self.shown.lock() = plan.clone();
        self.plan = plan;
        self.progress.lock().generation += 1;
        Ok(notes)
    }

    /// That no sink has ended, which trying again would not mend.
    pub(super) fn all_there(&self) -> Result<(), End> {
        match self.sinks.iter().find(|(_, sink)| sink.is_gone()) {
            Some((id, _)) => Err(self.gone(id)),
            None => Ok(()),
        }
    }

    /// Starts a sink that is new in `plan`; tries until it does.
    async fn start_sink(
        &mut self,
        plan: &PipelinePlan,
        node: &NodePlan,
        mut built: Option<BuiltSink>,
    ) -> Option<SinkHandle> {
        loop {
            let sink = match built.take() {
                Some(sink) => Ok(Some(sink)),
                None => build_sink(&self.shared, plan, node),
            };
            let why = match sink {
                Ok(None) => return None,
                Ok(Some(sink)) => match sink.begin(None, &self.tasks).await {
                    Ok(sink) => return Some(sink),
                    Err(why) => why,
                },
                Err(why) => why,
            };
            self.note_failure(why);
            tokio::time::sleep(AGAIN).await;
        }
    }
}

/// Takes a sink that is detached along when its pipeline is renamed. What it had staged is
/// committed under the old name, which the new one does not know.
pub(in super::super) async fn rename_part(
    shared: &Shared,
    part: &Consumer,
    before: &PipelinePlan,
    after: &PipelinePlan,
) -> Result<(), String> {
    let (checkpoint, _) = shared.checkpoints.load(part).map_err(|e| e.to_string())?;
    let Some(checkpoint) = checkpoint else { return Ok(()) };
    for node in &before.nodes {
        let staged = checkpoint.sinks.get(&*node.id).filter(|s| !s.work.is_empty());
        let Some(staged) = staged else { continue };
        if let Some(mut sink) = build_sink(shared, before, node)? {
            sink.restore(Some((checkpoint.position, staged))).await?;
        }
    }
    let who = Consumer { pipeline: after.name.clone(), sink: part.sink.clone() };
    shared.holds.take(&who, || checkpoint.position);
    let renamed = shared.checkpoints.rename_part(&checkpoint, &after.name, &after.hash);
    renamed.map_err(|e| format!("its detached sink cannot be renamed: {e}"))?;
    shared.holds.release(part);
    Ok(())
}

/// Whether the sink `node` of `present` goes on in `next`: others stage everything they hold.
pub(in super::super) fn keeps_sink(
    present: &PipelinePlan,
    next: &PipelinePlan,
    node: &NodePlan,
) -> bool {
    let same = |n: &NodePlan| n.id == node.id && n.resolved == node.resolved;
    present.name == next.name && next.nodes.iter().any(same)
}

/// Whether the operator or alert `id` of `present` is not in `next`: it says what it still holds.
pub(in super::super) fn is_gone(present: &PipelinePlan, next: &PipelinePlan, id: &str) -> bool {
    let Some(before) = present.nodes.iter().find(|n| *n.id == *id) else { return true };
    let takes_over = |n: &NodePlan| *n.id == *id || n.was.as_deref() == Some(id);
    !next.nodes.iter().any(|n| n.kind == before.kind && takes_over(n))
}
