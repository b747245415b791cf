//! From what runs to what shall run, at one mark: sources that go stop before it, pipelines swap
//! at it, new pipelines begin behind it, and only then new sources start. So no entry falls
//! between the readers of before and after.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::decide::{self, DetachedFate, Fate};
use super::pipeline::{self, Asked, AtMark, Change, Swap, detached, keeps_sink};
use super::reload::Known;
use super::{Outcome, Running, Runtime};
use crate::checkpoint::Consumer;
use crate::plan::{PipelinePlan, SourceDefinition};

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

/// From what runs to what shall run.
struct Differences {
    changing: Vec<Changing>,
    fresh: Vec<Arc<PipelinePlan>>,
    /// Whether something has to wait for the next time.
    postponed: bool,
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
        outcome.events.extend(self.abandon_dropped().await);
        self.bring_back(&known.plans, outcome).await;
        let differences = || self.differences(&known.plans, outcome);
        let Differences { changing, fresh, postponed } = tokio::task::block_in_place(differences);
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
        known.unfinished = postponed;
        known.sources = sources.clone();
        for plan in fresh {
            let at = mark.as_ref().map(|(mark, _)| mark.offset);
            outcome.events.extend(self.bring_up(&plan, at).await);
            outcome.ok &= self.running.lock().contains_key(&Consumer::pipeline(&plan.name));
        }
        self.sources.stop_others(sources).await;
        self.sources.start(sources).await;
        self.taking.send_replace(true);
        self.change_detached(&known.plans, outcome).await;
        if let Some((mark, verbs)) = mark {
            self.tell(mark, &verbs, outcome).await;
        }
        outcome.events.extend(self.abandon_dropped().await);
        self.clear().await;
    }

    /// Detached sinks that are gone from the files are let go; those that are another now start anew
    /// from their checkpoints. The others change at the mark like pipelines, and those of a pipeline
    /// that is removed go with it.
    async fn change_detached(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) {
        for (who, running) in self.detached() {
            let sink = who.sink.as_deref().unwrap_or_default();
            let whole = Consumer::pipeline(&who.pipeline);
            let begun =
                self.running.lock().contains_key(&whole) || self.down.lock().contains_key(&whole);
            let plan = running.as_ref().map(|r| r.plan.lock().clone());
            match decide::detached(sink, plan.as_deref(), wanted.get(&who.pipeline)) {
                DetachedFate::GoesOn => {}
                DetachedFate::WithPipeline if begun => {}
                DetachedFate::Restarts(present) => {
                    self.stop_detached(&who).await;
                    self.start_detached(&who, present).await;
                }
                DetachedFate::WithPipeline | DetachedFate::Removed => {
                    outcome.events.push(self.abandon(&who).await);
                }
            }
        }
    }

    /// What has to change among what runs, and what has to start.
    fn differences(
        &self,
        wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
        outcome: &mut Outcome,
    ) -> Differences {
        let running = self.running.lock().clone();
        let present = running.iter().map(|(who, r)| (who.clone(), r.present())).collect();
        let (fates, mut fresh) = decide::fates(&present, wanted);
        let mut changing = Vec::new();
        for ((before, r), fate) in running.iter().zip(fates) {
            let name = &before.pipeline;
            let (plan, verb) = match fate {
                Fate::Stays(plan) => {
                    if r.plan.lock().hash == plan.hash && before.sink.is_none() {
                        // Places in the files may have moved.
                        *r.plan.lock() = plan;
                    }
                    continue;
                }
                Fate::Ends | Fate::Apart => continue,
                Fate::Changes(plan) => (Some(plan), "changed".to_owned()),
                Fate::Renamed(plan) => (Some(plan), format!("renamed: it was `{name}`")),
                Fate::Removed => (None, "removed".to_owned()),
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
        let all = fresh.len();
        fresh.retain(|p| !self.must_wait(p, wanted));
        let postponed = fresh.len() < all;
        if postponed {
            let why = "a pipeline waits until another has let go of its name or state";
            outcome.events.push(why.to_owned());
        }
        Differences { changing, fresh, postponed }
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
                // Their pipeline takes them along at the mark.
                for (part, _) in
                    self.detached().iter().filter(|(p, _)| p.pipeline == c.before.pipeline)
                {
                    self.stop_detached(part).await;
                }
                self.shared.holds.take(&c.after, || c.running.progress.lock().committed);
            }
            verbs.insert(c.after.clone(), c.verb);
            asked.push((c.before, c.after.clone(), c.running.clone(), c.asked));
            changes.push((c.after, c.running, c.change));
        }
        let mark = match self.mark(changes).await {
            Ok(mark) => mark,
            Err(why) => {
                for (before, after, ..) in
                    asked.iter().filter(|(before, after, ..)| before != after)
                {
                    tracing::debug!(pipeline = %before.pipeline, "is not renamed yet");
                    self.shared.holds.release(after);
                }
                return Err(why);
            }
        };
        let mut all = self.running.lock();
        for ((before, after, running, asked), (_, answer)) in asked.into_iter().zip(&mark.answers) {
            // Its loop has ended: it changes when it is back.
            if answer.is_none() {
                if before != after {
                    self.shared.holds.release(&after);
                }
                continue;
            }
            *running.asked.lock() = asked;
            if all.remove(&before).is_some() {
                all.insert(after, running);
            }
            self.down.lock().remove(&before);
        }
        Ok((mark, verbs))
    }

    async fn tell(&self, mark: Mark, verbs: &Verbs, outcome: &mut Outcome) {
        // Nobody waits for a detached sink, which may be far from its mark.
        let Mark { offset, answers } = mark;
        let (apart, whole): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(who, _)| who.sink.is_some());
        let mut results = self.answers(Mark { offset, answers: whole }, MARK_DEADLINE).await;
        results.extend(self.answers(Mark { offset, answers: apart }, Duration::ZERO).await);
        for (who, result) in results {
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
        let mut asked = Vec::new();
        for (who, running, change) in changes {
            let (reply, answer) = oneshot::channel();
            let sent = running.changes.insert(mark, AtMark { change, reply });
            answers.push((who, sent.then_some(answer)));
            asked.push(running);
        }
        match self.ticker.mark(mark).await {
            Ok(offset) => Ok(Mark { offset, answers }),
            Err(error) => {
                asked.iter().for_each(|running| drop(running.changes.take(mark)));
                Err(format!("no mark could be appended: {error}"))
            }
        }
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
}
