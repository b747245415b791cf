//! From what runs to what shall run, at one mark: sources that go stop before it, pipelines swap
//! at it, new pipelines begin behind it, and only then new sources start. So no entry falls
//! between the readers of before and after.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::pipeline::{self, Asked, AtMark, Begin, Change, Swap, keeps_sink, start};
use super::recovery::Saved;
use super::reload::Known;
use super::{Outcome, Running, Runtime};
use crate::plan::{From, PipelinePlan, SourceDefinition};

/// How long a pipeline may take to reach a mark and save.
const MARK_DEADLINE: Duration = Duration::from_secs(8);

/// A mark in the journal, and the answers of those that change at it.
pub(super) struct Mark {
    pub(super) offset: u64,
    answers: Vec<(Arc<str>, Option<Answer>)>,
}

type Answer = oneshot::Receiver<Result<Vec<String>, String>>;

/// A pipeline that changes.
struct Changing {
    /// Its name from now on.
    name: Arc<str>,
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
            outcome.ok &= self.pipelines.lock().contains_key(&plan.name);
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
        let down: Vec<Arc<str>> = self.down.lock().keys().cloned().collect();
        for name in down.iter().filter(|name| !self.pipelines.lock().contains_key(*name)) {
            if let Some(plan) = wanted.get(name) {
                outcome.events.extend(self.bring_up(plan, None).await);
                continue;
            }
            match self.shared.save_as_removed(name) {
                Ok(()) => {
                    self.down.lock().remove(name);
                    outcome.events.push(format!("pipeline `{name}` removed; it was down"));
                }
                Err(e) => {
                    outcome.ok = false;
                    outcome.events.push(format!("pipeline `{name}` is not removed: {e}"));
                }
            }
        }
    }

    /// What has to change among what runs, and what has to start.
    fn differences(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) -> (Vec<Changing>, Vec<Arc<PipelinePlan>>) {
        let running = self.pipelines.lock().clone();
        let mut fresh: Vec<_> =
            wanted.values().filter(|p| !running.contains_key(&p.name)).cloned().collect();
        let mut changing = Vec::new();
        for (name, r) in running {
            let asked = r.asked.lock().clone();
            let (plan, verb) = match wanted.get(&name) {
                Some(plan) if asked == Asked::Plan(plan.hash.clone()) => {
                    if r.plan.lock().hash == plan.hash {
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
                Some(plan) => match self.prepare(&r, plan) {
                    Ok(swap) => (Asked::Plan(plan.hash.clone()), Change::Swap(swap)),
                    Err(why) => {
                        outcome.ok = false;
                        outcome.events.push(format!("pipeline `{name}` stays as it was: {why}"));
                        continue;
                    }
                },
                None => (Asked::Removal, Change::Remove),
            };
            let name = plan.map_or(name, |p| p.name.clone());
            changing.push(Changing { name, running: r, verb, asked, change });
        }
        (changing, fresh)
    }

    /// Builds the sinks that are not in the running plan.
    fn prepare(&self, running: &Running, plan: &Arc<PipelinePlan>) -> Result<Swap, String> {
        let present = running.plan.lock().clone();
        let mut sinks = HashMap::new();
        for node in &plan.nodes {
            if keeps_sink(&present, plan, node) {
                continue;
            }
            let sink = pipeline::build_sink(&self.shared, plan, node)?;
            sinks.extend(sink.map(|s| (node.id.clone(), s)));
        }
        Ok(Swap { plan: plan.clone(), sinks })
    }

    /// Appends the mark at which all of them change.
    async fn change(
        &self,
        changing: Vec<Changing>,
    ) -> Result<(Mark, BTreeMap<Arc<str>, String>), String> {
        let mut changes = Vec::new();
        let mut verbs = BTreeMap::new();
        let mut asked = Vec::new();
        for c in changing {
            let before = c.running.plan.lock().name.clone();
            if before != c.name {
                self.shared.holds.take(&c.name, || c.running.progress.lock().position);
            }
            verbs.insert(c.name.clone(), c.verb);
            asked.push((before, c.name.clone(), c.running.clone(), c.asked));
            changes.push((c.name, c.running, c.change));
        }
        let mark = self.mark(changes).await?;
        for (before, name, running, asked) in asked {
            *running.asked.lock() = asked;
            if before != name {
                let mut all = self.pipelines.lock();
                if all.remove(&before).is_some() {
                    all.insert(name, running);
                }
            }
        }
        Ok((mark, verbs))
    }

    async fn tell(&self, mark: Mark, verbs: &BTreeMap<Arc<str>, String>, outcome: &mut Outcome) {
        for (name, result) in self.answers(mark, MARK_DEADLINE).await {
            let verb = verbs.get(&name).map_or("changed", String::as_str);
            match result {
                Ok(notes) => {
                    outcome.events.push(format!("pipeline `{name}` {verb}"));
                    outcome.events.extend(notes.iter().map(|n| format!("pipeline `{name}`: {n}")));
                }
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
        changes: Vec<(Arc<str>, Arc<Running>, Change)>,
    ) -> Result<Mark, String> {
        let mark = self.next_mark();
        let mut answers = Vec::new();
        for (name, running, change) in changes {
            let (reply, answer) = oneshot::channel();
            let sent = running.changes.try_send(AtMark { mark, change, reply });
            answers.push((name, sent.is_ok().then_some(answer)));
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
    ) -> Vec<(Arc<str>, Result<Vec<String>, String>)> {
        let limit = tokio::time::Instant::now() + deadline;
        let mut results = Vec::new();
        for (name, answer) in mark.answers {
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
            results.push((name, result));
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
                self.insert(running);
                let mut events = vec![format!("pipeline `{name}` started {how}")];
                events.extend(notes.iter().map(|n| format!("pipeline `{name}`: {n}")));
                events
            }
            Err(why) => {
                self.is_down(name, Some(plan.clone()), None, &why);
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
        let (checkpoint, plan, mut notes) = match self.saved(&plan.name).await? {
            Saved::Nothing => {
                let before = match plan.from {
                    From::Time(time) => self.before(time).await,
                    From::Now | From::Oldest => 0,
                };
                let after = self.shared.holds.take(&plan.name, || match plan.from {
                    From::Now => at.unwrap_or_else(|| journal.head()),
                    From::Oldest => oldest(),
                    From::Time(_) => before,
                });
                return self.fresh(plan, after).await;
            }
            // All that the journal has: what is committed already is not committed again.
            Saved::Lost => {
                let after = self.shared.holds.take(&plan.name, oldest);
                return self.fresh(plan, after).await;
            }
            Saved::Removed(checkpoint) => (checkpoint, plan.clone(), Vec::new()),
            // It changes to the present plan at the next mark.
            Saved::Live(checkpoint) if checkpoint.plan != plan.hash => {
                match self.recorded_plan(&checkpoint) {
                    Ok(recorded) => (checkpoint, Arc::new(recorded), Vec::new()),
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
        plan: &Arc<PipelinePlan>,
        after: u64,
    ) -> Result<(Running, String, Vec<String>), String> {
        let started = start(self.shared.clone(), plan.clone(), Begin::After(after)).await;
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
