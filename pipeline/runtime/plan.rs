//! What a reload would do, said before it: the decisions of [`super::decide`] over what runs, what
//! is saved and what the files say. Leaves everything as it is.
//!
//! What only doing it can show is not in it: whether a new address can be bound, whether a sink
//! can be built, whether an operator can read a state of the right shape.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::Serialize;

mod tables;

pub use self::tables::LookupChange;
use super::decide::{self, DetachedFate, Fate, NodeChange, Present, SourceFate};
use super::pipeline::{Asked, Ended, left_behind, unclaimed};
use super::recovery::{REMOVED_KEPT, Saved, gap};
use super::reload::FileOutcome;
use super::sources::SourceChange;
use super::{Running, Runtime};
use crate::checkpoint::{Checkpoint, Consumer};
use crate::config::FileState;
use crate::graph::shape;
use crate::plan::{From, NodePlan, PipelinePlan, Work};

/// What a reload would do.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Planned {
    /// Whether every file would be live as it stands.
    pub ok: bool,
    /// File by file, as in [`super::Outcome`].
    pub files: Vec<FileOutcome>,
    /// What is wrong, as people read it; warnings too.
    pub diagnostics: Vec<String>,
    /// What becomes of each source.
    pub sources: Vec<SourceChange>,
    /// What becomes of each pipeline.
    pub pipelines: Vec<PipelineChange>,
    /// What becomes of each lookup table.
    pub lookups: Vec<LookupChange>,
}

/// What becomes of a pipeline.
#[derive(Clone, Debug, Serialize)]
pub struct PipelineChange {
    /// Its name from then on.
    pub name: String,
    /// Its file.
    pub file: String,
    /// What happens to it.
    pub change: Change,
    /// The name it had, if that changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// What else people should know, one sentence each.
    pub notes: Vec<String>,
    /// What becomes of its nodes, if it changes or comes back.
    pub nodes: Vec<NodeChange>,
}

/// What happens to a pipeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Nothing.
    Unchanged,
    /// It is rebuilt at the mark.
    Changed,
    /// It goes on under another name.
    Renamed,
    /// It starts.
    New,
    /// It does not run, and goes on from its checkpoint.
    Back,
    /// It says what it still holds, and ends.
    Removed,
}

/// Pipelines by name.
type Plans = BTreeMap<Arc<str>, Arc<PipelinePlan>>;

/// How a pipeline that does not run would come up.
enum Entry {
    Fresh(String),
    From { checkpoint: Box<Checkpoint>, plan: Arc<PipelinePlan>, notes: Vec<String> },
}

impl Runtime {
    /// What [`Runtime::reload`] would do now. Waits for one that is under way.
    pub async fn plan(&self) -> Planned {
        let known = self.reloading.lock().await;
        let (loaded, tables, definitions) = self.look_ahead(&known.good);
        let lookups = self.plan_lookups(definitions, &loaded, &tables);
        let sources = self.sources.plan(&loaded.plan.sources);
        let settings = sources.iter().filter(|s| s.change == SourceFate::Settings);
        let settings: BTreeSet<&str> = settings.map(|s| s.id.as_str()).collect();
        let pipelines = self.plan_pipelines(&loaded.plan.pipelines, &settings);
        let ok = loaded.files.iter().all(|f| f.state == FileState::Live)
            && sources.iter().all(|s| s.refused.is_empty());
        Planned {
            ok,
            files: loaded.files.iter().map(FileOutcome::of).collect(),
            diagnostics: loaded.diagnostics.0.iter().map(ToString::to_string).collect(),
            sources,
            pipelines,
            lookups,
        }
    }

    fn plan_pipelines(&self, wanted: &Plans, settings: &BTreeSet<&str>) -> Vec<PipelineChange> {
        let mut changes = Vec::new();
        let mut notes: BTreeMap<Consumer, Vec<String>> = BTreeMap::new();
        let mut present = BTreeMap::new();
        let running = self.running.lock().clone();
        for (who, r) in running.iter().filter(|(who, r)| who.sink.is_none() && r.ended().is_none())
        {
            present.insert(who.clone(), r.present());
        }
        // Those that are down come back first, and those whose file is gone are let go.
        for (who, plan, why) in self.failed(&running) {
            if let Some(next) = self.returns(&who, plan.as_ref(), wanted) {
                let mut said = vec![format!("it is down: {why}")];
                match self.entry(&next) {
                    Ok(Entry::From { checkpoint, plan, notes }) => {
                        said.push(back(&checkpoint));
                        said.extend(notes);
                        let asked = Asked::Plan(plan.hash.clone());
                        present.insert(who.clone(), Present { plan, asked });
                    }
                    // It is among those that start.
                    Ok(Entry::Fresh(_)) => {}
                    Err(why) => said.push(format!("it would not start: {why}")),
                }
                notes.insert(who, said);
            } else {
                let mut change = PipelineChange::new(&who.pipeline, Change::Removed);
                change.file = plan.map(|p| p.path.display().to_string()).unwrap_or_default();
                change.notes = vec![format!("it is down: {why}"), kept()];
                changes.push(change);
            }
        }
        let (fates, fresh) = decide::fates(&present, wanted);
        for ((who, Present { plan, asked }), fate) in present.iter().zip(fates) {
            let mut change = describe(plan, asked, &fate, settings);
            let came_back = notes.remove(who).unwrap_or_default();
            if !came_back.is_empty() && change.change == Change::Unchanged {
                change.change = Change::Back;
            }
            change.notes.splice(..0, came_back);
            self.plan_detached(who, wanted, &mut change);
            changes.push(change);
        }
        for plan in fresh {
            let mut change = self.plan_start(&plan);
            if self.must_wait(&plan, wanted) {
                let why = "waits until another pipeline has let go of its name or state";
                change.notes.push(why.to_owned());
            }
            let said = notes.remove(&Consumer::pipeline(&plan.name)).unwrap_or_default();
            change.notes.splice(..0, said);
            changes.push(change);
        }
        changes.sort_by(|a, b| a.name.cmp(&b.name));
        changes
    }

    /// Pipelines that should run and do not: what they were, if that is known, and why.
    fn failed(
        &self,
        running: &BTreeMap<Consumer, Arc<Running>>,
    ) -> Vec<(Consumer, Option<Arc<PipelinePlan>>, String)> {
        let mut failed = BTreeMap::new();
        for (who, down) in &*self.down.lock() {
            failed.insert(who.clone(), (down.plan.clone(), down.why.clone()));
        }
        for (who, r) in running {
            match r.ended() {
                Some(Ended::Failed(why)) => {
                    failed.insert(who.clone(), (Some(r.plan.lock().clone()), why));
                }
                // It came back, and did not fail again.
                None => drop(failed.remove(who)),
                Some(Ended::Removed | Ended::Stopped) => {}
            }
        }
        let whole = failed.into_iter().filter(|(who, _)| who.sink.is_none());
        whole.map(|(who, (plan, why))| (who, plan, why)).collect()
    }

    /// How `plan` would come up, were it not running.
    fn entry(&self, plan: &Arc<PipelinePlan>) -> Result<Entry, String> {
        let oldest = self.shared.journal.oldest();
        let who = Consumer::pipeline(&plan.name);
        Ok(match self.peek(&who)? {
            Saved::Nothing => Entry::Fresh(match plan.from {
                From::Now => match self.shared.holds.position(&who) {
                    Some(held) => format!("starts behind entry {held}, where it was to start"),
                    None => "starts at the mark of the reload".to_owned(),
                },
                From::Oldest => format!("starts at entry {oldest}, the oldest of the journal"),
                From::Time(_) => {
                    "starts at the first entry since the time of its `from`".to_owned()
                }
            }),
            Saved::Lost => Entry::Fresh(format!(
                "its checkpoints are damaged: starts at entry {oldest}, the oldest of the journal"
            )),
            Saved::Live(checkpoint) | Saved::Removed(checkpoint) => {
                let (plan, mut notes) = self.resumed(&checkpoint, plan);
                notes.extend(gap(checkpoint.position, checkpoint.position.max(oldest - 1)));
                Entry::From { checkpoint, plan, notes }
            }
        })
    }

    /// What becomes of a pipeline that neither runs nor is down.
    fn plan_start(&self, plan: &Arc<PipelinePlan>) -> PipelineChange {
        let mut change = PipelineChange::new(&plan.name, Change::New);
        change.file = plan.path.display().to_string();
        match self.entry(plan) {
            Ok(Entry::Fresh(how)) => change.notes.push(how),
            Ok(Entry::From { checkpoint, plan: resumed, notes }) => {
                change.change = Change::Back;
                change.notes.push(back(&checkpoint));
                change.notes.extend(notes);
                if resumed.hash != plan.hash {
                    change.notes.push("it changes to what its file says at a later mark".into());
                }
                let missing = |id: &str| !resumed.nodes.iter().any(|n| *n.id == *id);
                change.notes.extend(left_behind(&checkpoint, missing));
                change.notes.extend(unclaimed(&checkpoint, &resumed));
                let saved = checkpoint.states.iter();
                let saved = saved.map(|(id, s)| (id.clone(), s.shape.clone())).collect();
                let before = self.recorded_plan(&checkpoint);
                change.nodes = decide::nodes(before.as_ref().unwrap_or(plan), plan, &saved);
            }
            Err(why) => change.notes.push(format!("it would not start: {why}")),
        }
        change
    }

    /// What becomes of the sinks that are detached from `whole`.
    fn plan_detached(&self, whole: &Consumer, wanted: &Plans, change: &mut PipelineChange) {
        for (who, part) in self.detached() {
            let Some(sink) = who.sink.filter(|_| who.pipeline == whole.pipeline) else { continue };
            let plan = part.map(|r| r.plan.lock().clone());
            let what = match decide::detached(&sink, plan.as_deref(), wanted.get(&who.pipeline)) {
                DetachedFate::WithPipeline if change.change == Change::Renamed => {
                    "is taken along under the new name"
                }
                DetachedFate::WithPipeline | DetachedFate::Removed => {
                    "is removed: what it has not taken in yet is not delivered"
                }
                DetachedFate::Restarts(_) => "starts from its own checkpoint as the file says now",
                DetachedFate::GoesOn => "goes on by itself until it has caught up",
            };
            change.notes.push(format!("sink `{sink}` is detached, and {what}"));
        }
    }
}

/// What becomes of a pipeline that runs as `plan`.
fn describe(
    plan: &Arc<PipelinePlan>,
    asked: &Asked,
    fate: &Fate,
    settings: &BTreeSet<&str>,
) -> PipelineChange {
    let (kind, next) = match fate {
        Fate::Stays(next) => (Change::Unchanged, next),
        Fate::Ends => (Change::Removed, plan),
        Fate::Changes(next) => (Change::Changed, next),
        Fate::Renamed(next) => (Change::Renamed, next),
        Fate::Removed | Fate::Apart => (Change::Removed, plan),
    };
    let mut change = PipelineChange::new(&next.name, kind);
    change.file = next.path.display().to_string();
    change.was = (next.name != plan.name).then(|| plan.name.to_string());
    match fate {
        Fate::Stays(next) if next.hash != plan.hash => {
            change.notes.push("it changes to this already, when it reaches its mark".to_owned());
        }
        Fate::Stays(_) => {}
        Fate::Ends => {
            change.notes.push("it ends already; if a file has it, it then starts again".to_owned());
        }
        Fate::Changes(next) | Fate::Renamed(next) => {
            change.nodes = decide::nodes(plan, next, &decide::shapes(plan));
            if *asked != Asked::Plan(plan.hash.clone()) {
                let late = "an earlier change is still to come; what follows is held against what \
                            runs now";
                change.notes.push(late.to_owned());
            }
            if next.backlog != plan.backlog {
                change.notes.push("its `backlog` changes".to_owned());
            }
            let reads = |id: &&&str| {
                next.nodes.iter().flat_map(|n| &n.inputs).any(|input| input.is_source(id))
            };
            for source in settings.iter().filter(reads) {
                change.notes.push(format!("source `{source}`, which it reads, has new settings"));
            }
        }
        Fate::Removed | Fate::Apart => change.notes = vec![farewell(plan), kept()],
    }
    change
}

impl PipelineChange {
    fn new(name: &str, change: Change) -> Self {
        let (name, file) = (name.to_owned(), String::new());
        Self { name, file, change, was: None, notes: Vec::new(), nodes: Vec::new() }
    }
}

fn back(checkpoint: &Checkpoint) -> String {
    format!("comes back from its checkpoint, behind entry {}", checkpoint.position)
}

fn kept() -> String {
    let days = REMOVED_KEPT.as_secs() / 86_400;
    format!("its checkpoint stays {days} days: if its file comes back, it goes on from there")
}

/// What a pipeline says before it goes.
fn farewell(plan: &PipelinePlan) -> String {
    let ids = |class: fn(&Work) -> bool| {
        let hold = plan.nodes.iter().filter(|n| class(&n.work) && shape(n).is_some());
        let ids: Vec<String> = hold.map(|n: &NodePlan| format!("`{}`", n.id)).collect();
        (!ids.is_empty()).then(|| ids.join(", "))
    };
    let mut said = vec!["runs up to the mark".to_owned()];
    said.extend(
        ids(|w| matches!(w, Work::Operator(_))).map(|ids| format!("emits what {ids} hold")),
    );
    said.extend(ids(|w| matches!(w, Work::Alert(_))).map(|ids| format!("resolves {ids}")));
    said.join(", ")
}
