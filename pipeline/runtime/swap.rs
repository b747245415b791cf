//! From what runs to what shall run, at one mark: sources that go stop before it, pipelines swap
//! at it, new pipelines begin behind it, and only then new sources start. So no entry falls
//! between the readers of before and after.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::detached::same_sink;
use super::pipeline::{self, Asked, AtMark, Begin, Change, Swap, detached, keeps_sink, start};
use super::recovery::Saved;
use super::reload::Known;
use super::{Outcome, Running, Runtime};
use crate::checkpoint::Consumer;
use crate::plan::{From, PipelinePlan, SourceDefinition};

/// How long a pipeline may take to reach a mark and save.
pub(super) const MARK_DEADLINE: Duration = Duration::from_secs(8);

/// A mark in the journal, and the answers of those that change at it.
pub(super) struct Mark {
    pub(super) offset: u64,
    answers: Vec<(Consumer, Option<Answer>)>,
}

/// What to call the change of each.
type Verbs = BTreeMap<Consumer, String>;

type Answer = oneshot::Receiver<Result<Vec<String>, String>>;

/// A pipeline or a detached sink that changes.
struct Changing {
    before: Consumer,
    /// Who it is from now on.
    after: Consumer,
    running: Arc<Running>,
    verb: String,
    asked: Asked,
    change: Change,
}

impl Runtime {
    /// Makes `known.plans` and `sources` run.
    pub(super) async fn swap(
        &self,
        known: &mut Known,
        sources: &BTreeMap<Arc<str>, Arc<SourceDefinition>>,
        outcome: &mut Outcome,
    ) {
        self.clear().await;
        self.bring_back(&known.plans, outcome).await;
        self.change_detached(&known.plans, outcome).await;
        let (changing, fresh) = self.differences(&known.plans, outcome);
        let mark = if changing.is_empty() && fresh.is_empty() {
            None
        } else {
            self.sources.stop_others(sources).await;
            match self.change(changing).await {
                Ok(mark) => Some(mark),
                Err(why) => {
                    known.unfinished = true;
                    outcome.ok = false;
                    outcome.events.push(format!("nothing was changed, trying again: {why}"));
                    let nothing_runs = known.sources.is_empty();
                    self.sources.start(if nothing_runs { sources } else { &known.sources }).await;
                    return;
                }
            }
        };
        known.unfinished = false;
        known.sources = sources.clone();
        for plan in fresh {
            let at = mark.as_ref().map(|(mark, _)| mark.offset);
            outcome.events.extend(self.bring_up(&plan, at).await);
            outcome.ok &= self.running.lock().contains_key(&Consumer::pipeline(&plan.name));
        }
        self.sources.stop_others(sources).await;
        self.sources.start(sources).await;
        if let Some((mark, verbs)) = mark {
            self.tell(mark, &verbs, outcome).await;
        }
        self.clear().await;
    }

    /// Pipelines that failed come back as they were, so that they can change like the others;
    /// those whose file is gone are let go.
    async fn bring_back(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) {
        let down: Vec<Consumer> = self.down.lock().keys().cloned().collect();
        for who in down.iter().filter(|who| !self.running.lock().contains_key(*who)) {
            let name = &who.pipeline;
            if who.sink.is_some() {
                continue;
            }
            if let Some(plan) = wanted.get(name) {
                outcome.events.extend(self.bring_up(plan, None).await);
                continue;
            }
            match self.shared.save_as_removed(who) {
                Ok(()) => {
                    self.down.lock().remove(who);
                    outcome.events.push(format!("pipeline `{name}` removed; it was down"));
                }
                Err(e) => {
                    outcome.ok = false;
                    outcome.events.push(format!("pipeline `{name}` is not removed: {e}"));
                }
            }
        }
    }

    /// Detached sinks that are gone are let go; those that are another now start anew from their
    /// checkpoints. The others change at the mark like pipelines.
    async fn change_detached(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) {
        let detached: Vec<_> = {
            let running = self.running.lock();
            let down = self.down.lock();
            let all = running.keys().chain(down.keys()).filter(|who| who.sink.is_some());
            all.cloned().collect::<BTreeSet<_>>().into_iter().collect()
        };
        for who in detached {
            let sink = who.sink.as_deref().unwrap_or_default();
            let present = wanted.get(&who.pipeline).filter(|p| p.only(sink).is_some());
            let Some(present) = present else {
                outcome.events.push(self.abandon(&who).await);
                continue;
            };
            let running = self.running.lock().get(&who).cloned();
            let part = present.only(sink);
            let other = |r: &Arc<Running>| {
                part.as_ref().is_some_and(|part| !same_sink(&r.plan.lock(), part))
            };
            if running.as_ref().is_none_or(other) {
                if let Some(running) = running {
                    running.gone().await;
                    self.running.lock().remove(&who);
                }
                self.start_detached(&who, present).await;
            }
        }
    }

    /// What has to change among what runs, and what has to start.
    fn differences(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) -> (Vec<Changing>, Vec<Arc<PipelinePlan>>) {
        let running = self.running.lock().clone();
        let runs = |p: &&Arc<PipelinePlan>| running.contains_key(&Consumer::pipeline(&p.name));
        let mut fresh: Vec<_> = wanted.values().filter(|p| !runs(p)).cloned().collect();
        let mut changing = Vec::new();
        for (before, r) in &running {
            let name = &before.pipeline;
            let asked = r.asked.lock().clone();
            let (plan, verb) = match wanted.get(name) {
                Some(plan) if asked == Asked::Plan(plan.hash.clone()) => {
                    if r.plan.lock().hash == plan.hash && before.sink.is_none() {
                        // Places in the files may have moved.
                        *r.plan.lock() = plan.clone();
                    }
                    continue;
                }
                // It ends at a mark that is set already, and then starts again.
                _ if asked == Asked::Removal => continue,
                Some(plan) => (Some(plan.clone()), "changed".to_owned()),
                None => {
                    let content = r.plan.lock().content.clone();
                    let renamed = fresh.iter().position(|p| p.content == content);
                    match renamed.map(|i| fresh.remove(i)) {
                        Some(plan) => (Some(plan), format!("renamed: it was `{name}`")),
                        None => (None, "removed".to_owned()),
                    }
                }
            };
            let (asked, change) = match &plan {
                Some(plan) => match self.prepare(before, r, plan) {
                    Ok(swap) => (Asked::Plan(plan.hash.clone()), Change::Swap(swap)),
                    Err(why) => {
                        outcome.ok = false;
                        outcome.events.push(format!("pipeline `{name}` stays as it was: {why}"));
                        continue;
                    }
                },
                None => (Asked::Removal, Change::Remove),
            };
            let pipeline = plan.map_or_else(|| name.clone(), |p| p.name.clone());
            let after = Consumer { pipeline, sink: before.sink.clone() };
            let (before, running) = (before.clone(), r.clone());
            changing.push(Changing { before, after, running, verb, asked, change });
        }
        (changing, fresh)
    }

    /// Builds the sinks that are not in the running plan.
    fn prepare(
        &self,
        who: &Consumer,
        running: &Running,
        plan: &Arc<PipelinePlan>,
    ) -> Result<Swap, String> {
        let plan = match &who.sink {
            None => plan.clone(),
            Some(sink) => detached(plan, sink)?,
        };
        let present = running.plan.lock().clone();
        let mut sinks = HashMap::new();
        for node in &plan.nodes {
            if keeps_sink(&present, &plan, node) {
                continue;
            }
            let sink = pipeline::build_sink(&self.shared, &plan, node)?;
            sinks.extend(sink.map(|s| (node.id.clone(), s)));
        }
        Ok(Swap { plan, sinks })
    }

    /// Appends the mark at which all of them change. Gives what to call each change.
    async fn change(&self, changing: Vec<Changing>) -> Result<(Mark, Verbs), String> {
        let mut changes = Vec::new();
        let mut verbs = Verbs::new();
        let mut asked = Vec::new();
        for c in changing {
            if c.before != c.after {
                self.shared.holds.take(&c.after, || c.running.progress.lock().position);
            }
            verbs.insert(c.after.clone(), c.verb);
            asked.push((c.before, c.after.clone(), c.running.clone(), c.asked));
            changes.push((c.after, c.running, c.change));
        }
        let mark = self.mark(changes).await?;
        let mut all = self.running.lock();
        for (before, after, running, asked) in asked {
            *running.asked.lock() = asked;
            if all.remove(&before).is_some() {
                all.insert(after, running);
            }
        }
        Ok((mark, verbs))
    }

    async fn tell(&self, mark: Mark, verbs: &Verbs, outcome: &mut Outcome) {
        for (who, result) in self.answers(mark, MARK_DEADLINE).await {
            let verb = verbs.get(&who).map_or("changed", String::as_str);
            let name = &who.pipeline;
            match result {
                Ok(notes) => {
                    if who.sink.is_none() {
                        outcome.events.push(format!("pipeline `{name}` {verb}"));
                    }
                    outcome.events.extend(notes.iter().map(|n| format!("pipeline `{name}`: {n}")));
                }
                // It has time.
                Err(_) if who.sink.is_some() => {}
                Err(why) => {
                    outcome.ok = false;
                    outcome.events.push(format!("pipeline `{name}` is not {verb}: {why}"));
                }
            }
        }
    }

    /// Hands out changes and appends the mark at which they happen.
    ///
    /// # Errors
    /// If the journal cannot take the mark: nothing changes then.
    pub(super) async fn mark(
        &self,
        changes: Vec<(Consumer, Arc<Running>, Change)>,
    ) -> Result<Mark, String> {
        let mark = self.next_mark();
        let mut answers = Vec::new();
        for (who, running, change) in changes {
            let (reply, answer) = oneshot::channel();
            let sent = running.changes.try_send(AtMark { mark, change, reply });
            answers.push((who, sent.is_ok().then_some(answer)));
        }
        let offset = self.ticker.mark(mark).await;
        let offset = offset.map_err(|e| format!("no mark could be appended: {e}"))?;
        Ok(Mark { offset, answers })
    }

    /// How it went with each of those that change at `mark`.
    pub(super) async fn answers(
        &self,
        mark: Mark,
        deadline: Duration,
    ) -> Vec<(Consumer, Result<Vec<String>, String>)> {
        let limit = tokio::time::Instant::now() + deadline;
        let mut results = Vec::new();
        for (who, answer) in mark.answers {
            let result = match answer {
                None => Err("it does not take changes now".to_owned()),
                Some(answer) => match tokio::time::timeout_at(limit, answer).await {
                    Ok(Ok(result)) => result,
                    Ok(Err(_)) => Err("the pipeline ended".to_owned()),
                    Err(_) => Err(format!(
                        "it did not reach the mark and save within {} s; it goes on with what it \
                         had until it does",
                        deadline.as_secs()
                    )),
                },
            };
            results.push((who, result));
        }
        results
    }

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
                let after = self.shared.holds.take(&who, || match plan.from {
                    From::Now => at.unwrap_or_else(|| journal.head()),
                    From::Oldest => oldest(),
                    From::Time(_) => before,
                });
                return self.fresh(who, plan, after).await;
            }
            // All that the journal has: what is committed already is not committed again.
            Saved::Lost => {
                let after = self.shared.holds.take(&who, oldest);
                return self.fresh(who, plan, after).await;
            }
            Saved::Removed(checkpoint) => (checkpoint, plan.clone(), Vec::new()),
            // It changes to the present plan at the next mark.
            Saved::Live(checkpoint) if checkpoint.plan != plan.hash => {
                match self.recorded_plan(&checkpoint) {
                    Ok(recorded) => (checkpoint, recorded, Vec::new()),
                    Err(why) => (checkpoint, plan.clone(), vec![why]),
                }
            }
            Saved::Live(checkpoint) => (checkpoint, plan.clone(), Vec::new()),
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
        let mut after = journal.oldest() - 1;
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
}
