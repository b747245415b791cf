//! How a pipeline that does not run comes to run: anew, where it left off, or as it was before it
//! failed.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::pipeline::{Begin, start};
use super::recovery::{Saved, gap};
use super::supervise::Down;
use super::{Outcome, Running, Runtime};
use crate::checkpoint::Consumer;
use crate::intake::now;
use crate::plan::{From, PipelinePlan};

impl Runtime {
    /// Starts a pipeline that does not run: where it left off if that is known, else behind `at`
    /// (the head of the journal if there was no mark), or where `from` says. Gives what people
    /// should know.
    pub(super) async fn bring_up(&self, plan: &Arc<PipelinePlan>, at: Option<u64>) -> Vec<String> {
        let name = &plan.name;
        match self.try_bring_up(plan, at).await {
            Ok((running, how, notes)) => {
                self.insert(Consumer::pipeline(name), running);
                let mut events = vec![format!("pipeline `{name}` started {how}")];
                events.extend(notes.iter().map(|n| format!("pipeline `{name}`: {n}")));
                events
            }
            Err(why) => {
                self.is_down(&Consumer::pipeline(name), Some(plan.clone()), None, &why);
                vec![format!("pipeline `{name}` did not start: {why}")]
            }
        }
    }

    async fn try_bring_up(
        &self,
        plan: &Arc<PipelinePlan>,
        at: Option<u64>,
    ) -> Result<(Running, String, Vec<String>), String> {
        let journal = &self.shared.journal;
        let oldest = || journal.oldest() - 1;
        let who = Consumer::pipeline(&plan.name);
        let (checkpoint, plan, mut notes) = match self.saved(&who).await? {
            Saved::Nothing => {
                let before = match plan.from {
                    From::Time(time) => self.before(time).await,
                    From::Now | From::Oldest => 0,
                };
                // One that did not start has held its place since.
                let held = self.shared.holds.position(&who).filter(|_| plan.from == From::Now);
                let after = self.shared.holds.take(&who, || match plan.from {
                    From::Now => held.or(at).unwrap_or_else(|| journal.head()),
                    From::Oldest => oldest(),
                    From::Time(_) => before,
                });
                let missing = held.and_then(|held| gap(held, after));
                if let (Some(held), true) = (held, missing.is_some()) {
                    self.shared.gaps.add(&who, held, after, now());
                }
                let (running, how, mut notes) = self.fresh(who, plan, after).await?;
                notes.extend(missing);
                return Ok((running, how, notes));
            }
            // All that the journal has: what is committed already is not committed again.
            Saved::Lost => {
                let after = self.shared.holds.take(&who, oldest);
                return self.fresh(who, plan, after).await;
            }
            Saved::Removed(checkpoint) | Saved::Live(checkpoint) => {
                let (plan, notes) = self.resumed(&checkpoint, plan);
                (checkpoint, plan, notes)
            }
        };
        let how = format!("where it left off, behind entry {}", checkpoint.position);
        let (running, more) = self.go_on(checkpoint, Some(plan)).await?;
        notes.extend(more);
        Ok((running, how, notes))
    }

    async fn fresh(
        &self,
        who: Consumer,
        plan: &Arc<PipelinePlan>,
        after: u64,
    ) -> Result<(Running, String, Vec<String>), String> {
        let started = start(self.shared.clone(), who, plan.clone(), Begin::After(after)).await;
        let (running, notes) = started?;
        Ok((running, format!("behind entry {after}"), notes))
    }

    /// Offset of the last entry received before `time`, UTC nanoseconds.
    async fn before(&self, time: i64) -> u64 {
        let journal = &self.shared.journal;
        let head = journal.head();
        let mut after = journal.surely_before(time);
        let mut reader = journal.reader(after);
        while after < head {
            let Ok(entries) = reader.next().await else { break };
            for entry in entries {
                if entry.head.received >= time {
                    return after;
                }
                after = entry.offset;
            }
        }
        after
    }

    /// Pipelines that failed come back as they were, so that they can change like the others, also
    /// those that have another name now; those that are gone from the files are let go.
    pub(super) async fn bring_back(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) {
        let down: Vec<_> =
            self.down.lock().iter().map(|(w, d)| (w.clone(), d.plan.clone())).collect();
        for (who, plan) in &down {
            if who.sink.is_some() || self.running.lock().contains_key(who) {
                continue;
            }
            let name = &who.pipeline;
            if let Some(plan) = self.returns(who, plan.as_ref(), wanted) {
                outcome.events.extend(self.bring_up(&plan, None).await);
                continue;
            }
            match self.remove_down(who).await {
                Ok(note) => outcome.events.push(format!("pipeline `{name}` removed; {note}")),
                Err(why) => {
                    outcome.ok = false;
                    outcome.events.push(format!("pipeline `{name}` is not removed: {why}"));
                }
            }
        }
    }

    /// As what a pipeline that is down and was `plan` is brought up; not if it is gone from the
    /// files, also under another name.
    pub(super) fn returns(
        &self,
        who: &Consumer,
        plan: Option<&Arc<PipelinePlan>>,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
    ) -> Option<Arc<PipelinePlan>> {
        let is_renamed = |p: &&Arc<PipelinePlan>| {
            wanted.values().any(|w| w.content == p.content && !self.has_begun(w))
        };
        wanted.get(&who.pipeline).or(plan.filter(is_renamed)).cloned()
    }

    /// Whether a pipeline of this name runs or is down.
    fn has_begun(&self, plan: &PipelinePlan) -> bool {
        let who = Consumer::pipeline(&plan.name);
        self.running.lock().contains_key(&who) || self.down.lock().contains_key(&who)
    }

    /// Whether a pipeline must not begin yet: a loop bears its name until it reaches the mark of its
    /// renaming, or it is the new name of one that is down.
    pub(super) fn must_wait(
        &self,
        plan: &PipelinePlan,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
    ) -> bool {
        let running = self.running.lock();
        let bears = |(who, r): (&Consumer, &Arc<Running>)| {
            who.pipeline != plan.name && r.plan.lock().name == plan.name
        };
        let was = |(who, d): (&Consumer, &Down)| {
            let same = d.plan.as_ref().is_some_and(|p| p.content == plan.content);
            let gone = !wanted.contains_key(&who.pipeline) && !running.contains_key(who);
            who.sink.is_none() && same && gone
        };
        running.iter().any(bears) || self.down.lock().iter().any(was)
    }
}
