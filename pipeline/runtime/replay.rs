//! Replays: which plans are held against each other, and over which stretch of the journal. Leaves
//! everything as it is; what it reads it does not hold, so that trimming goes on.

mod reading;
mod stretch;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio_util::sync::DropGuard;

use self::reading::Reading;
use self::stretch::warm_up;
use super::decide::{self, Fate, Present};
use super::decoders::Decoders;
use super::reload::Known;
use super::{Running, Runtime};
use crate::checkpoint::Consumer;
use crate::config::{self, Bundle, Environment};
use crate::plan::{Guess, PipelinePlan, SourceDefinition};
use crate::replay::{
    EditedFile, PipelineReport, Progress, Report, Request, SAMPLES, SAMPLES_MAX, Twin, TwinOptions,
};
use crate::testing;

/// Replays at a time: each takes a core and reads from the disk of the journal.
const REPLAYS_MAX: usize = 2;
/// Rows that wait for their like on the other side take at most this part of what queries may take,
/// over all replays.
const WAITING_SHARE: usize = 4;
/// How long an entry of the journal is waited for, which a failing disk may not give.
const READ: Duration = Duration::from_secs(10);

/// Why there is no replay.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    /// It cannot be asked for like this; names what is wrong.
    #[error("{0}")]
    Invalid(String),
    /// There is no such pipeline.
    #[error("{0}")]
    NotFound(String),
    /// As many run as may.
    #[error("{0}")]
    Busy(String),
    /// It was stopped, or the journal could not be read.
    #[error("{0}")]
    Failed(String),
}

/// A replay under way. Dropping it ends it.
pub struct Replaying {
    /// How far it has come.
    pub progress: watch::Receiver<Progress>,
    /// What comes of it.
    pub report: oneshot::Receiver<Result<Report, ReplayError>>,
    _stop: DropGuard,
}

/// What takes part in the limit of replays.
pub(super) fn places() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(REPLAYS_MAX))
}

/// A live and an edited plan that are held against each other.
struct Pair {
    /// The edited file as it was called, if it is not that of the plan.
    file: Option<String>,
    change: &'static str,
    live: Option<Arc<PipelinePlan>>,
    edited: Option<Arc<PipelinePlan>>,
    notes: Vec<String>,
}

/// Sources by id.
type Sources = BTreeMap<Arc<str>, Arc<SourceDefinition>>;

/// What the last reload knew.
struct Before {
    good: config::LastGood,
    sources: Sources,
}

impl Before {
    fn of(known: &Known) -> Self {
        Self { good: known.good.clone(), sources: known.sources.clone() }
    }
}

/// What shall be replayed.
#[derive(Default)]
struct Wanted {
    pairs: Vec<Pair>,
    diagnostics: Vec<String>,
    notes: Vec<String>,
}

impl Runtime {
    /// Begins a replay, which goes on by itself.
    ///
    /// # Errors
    /// Everything that is wrong with what was asked.
    pub async fn replay(self: &Arc<Self>, request: Request) -> Result<Replaying, ReplayError> {
        let busy = || format!("{REPLAYS_MAX} replays are under way: wait for one to end");
        let place = self.replays.clone().try_acquire_owned();
        let place = place.map_err(|_| ReplayError::Busy(busy()))?;
        let samples = request.samples.unwrap_or(SAMPLES).min(SAMPLES_MAX);
        let mut wanted = self.wanted(&request).await?;
        let (warm_up, patience) = warm_up(&request, &mut wanted)?;
        let stretch = self.stretch(&request, warm_up, &mut wanted.notes).await?;
        let router = self.options.components.router.name;
        let count = wanted.pairs.len().max(1);
        let mut reports = Vec::new();
        let mut twins = Vec::new();
        for Pair { file, change, live, edited, notes } in wanted.pairs {
            let skipped = live.as_ref().map_or_else(HashSet::new, |plan| {
                self.shared.poison.skipped(&Consumer::pipeline(&plan.name))
            });
            twins.push(Twin::new(TwinOptions {
                live,
                edited,
                router,
                skipped,
                samples,
                waiting: self.options.memory.queries / WAITING_SHARE / REPLAYS_MAX / count,
                patience,
            }));
            let file = file.unwrap_or_default();
            reports.push(PipelineReport { file, change, notes, ..PipelineReport::default() });
        }
        let report = Report {
            diagnostics: wanted.diagnostics,
            notes: wanted.notes,
            pipelines: reports,
            ..Report::default()
        };
        let cancel = self.stop.child_token();
        let (progress, receiver) = watch::channel(Progress::default());
        let (answer, answered) = oneshot::channel();
        let reading = Reading {
            runtime: self.clone(),
            // Entities of its own: those of what runs stay as they are.
            decoders: Decoders::new(
                self.shared.journal.clone(),
                self.options.components,
                self.shared.decoders.budget().clone(),
            ),
            stretch,
            twins,
            report,
            passed: 0,
            progress,
            cancel: cancel.clone(),
        };
        let handle = tokio::runtime::Handle::current();
        tokio::task::spawn_blocking(move || {
            // Nobody waits any more if it fails.
            let _ = answer.send(reading.run(&handle));
            drop(place);
        });
        Ok(Replaying { progress: receiver, report: answered, _stop: cancel.drop_guard() })
    }

    /// Plans and tests on a thread that may take its time; no reload waits for it.
    async fn wanted(self: &Arc<Self>, request: &Request) -> Result<Wanted, ReplayError> {
        // A reload that is under way has its end first.
        let known = Before::of(&*self.reloading.lock().await);
        let (runtime, file, name) = (self.clone(), request.file.clone(), request.pipeline.clone());
        let plan = move || match &file {
            Some(file) => runtime.edited(file, name.as_deref(), &known),
            None => runtime.folder(name.as_deref(), &known),
        };
        let planned = tokio::task::spawn_blocking(plan).await;
        planned.map_err(|e| ReplayError::Failed(e.to_string()))?
    }

    /// A file that was sent, beside those that are live.
    fn edited(
        &self,
        file: &EditedFile,
        name: Option<&str>,
        known: &Before,
    ) -> Result<Wanted, ReplayError> {
        let bundle = bundle(file, known);
        let environment = Environment::Fixed(bundle.environment.clone());
        let own = config::name_of(&file.path, &file.text, &environment);
        let all = self.live();
        let live = all.get(name.unwrap_or(&own)).cloned();
        if let (None, Some(name)) = (&live, name) {
            return Err(ReplayError::NotFound(no_pipeline(name, &all)));
        }
        let name = name.unwrap_or(&own);
        let replaced = live.as_ref().map(|plan| plan.path.display().to_string());
        let plan_at = |bundle: &Bundle, path: &str| {
            let with = (&self.options.components, &self.options.tables);
            config::plan_beside(&known.good, replaced.as_deref(), bundle, path, name, with)
        };
        let planned = plan_at(&bundle, &file.path);
        let planned = planned.map_err(|wrong| ReplayError::Invalid(wrong.to_string()))?;
        let (mut plan, sources, warnings) = planned;
        let failed = testing::run(&plan);
        // Where a file lies is no difference.
        if let Some(path) = &replaced
            && let Ok((there, ..)) = plan_at(&config::moved(&bundle, &file.path, path), path)
        {
            plan = there;
        }
        let mut notes = guessed(&plan).map_err(ReplayError::Invalid)?;
        let change = match &live {
            None => "new",
            Some(live) if plan.content == live.content => "unchanged",
            Some(_) => "changed",
        };
        if live.is_none() {
            notes.push(format!(
                "no pipeline `{name}` runs: all that it makes is new; running are {}",
                names(&all)
            ));
        }
        if failed.has_errors() {
            notes.push("its own tests fail: a reload would refuse it".to_owned());
        }
        let said = warnings.0.iter().chain(&failed.0).map(ToString::to_string);
        Ok(Wanted {
            diagnostics: said.collect(),
            notes: source_notes(&known.sources, &sources),
            pairs: vec![Pair {
                file: Some(file.path.clone()),
                change,
                live,
                edited: Some(Arc::new(plan)),
                notes,
            }],
        })
    }

    /// The files as they stand now, beside what runs.
    fn folder(&self, only: Option<&str>, known: &Before) -> Result<Wanted, ReplayError> {
        let (loaded, ..) = self.look_ahead(&known.good);
        let mut pairs = self.pairs(&loaded.plan.pipelines);
        let named = |pair: &Pair, name: &str| {
            pair.live.iter().chain(&pair.edited).any(|plan| *plan.name == *name)
        };
        let all = pairs.len();
        match only {
            Some(name) => pairs.retain(|pair| named(pair, name)),
            None => pairs.retain(|pair| pair.change != "unchanged"),
        }
        if let (Some(name), true) = (only, pairs.is_empty()) {
            return Err(ReplayError::NotFound(no_pipeline(name, &self.live())));
        }
        let mut notes = source_notes(&known.sources, &loaded.plan.sources);
        if only.is_none() && pairs.len() < all {
            let unchanged = all - pairs.len();
            notes.push(format!("{unchanged} of {all} pipelines are unchanged and left out"));
        }
        let broken = loaded.files.iter().filter(|f| f.state != config::FileState::Live);
        notes
            .extend(broken.map(|f| {
                format!("`{}` has a mistake and stands as it runs now", f.path.display())
            }));
        let diagnostics = loaded.diagnostics.0.iter().map(ToString::to_string).collect();
        Ok(Wanted { pairs, diagnostics, notes })
    }

    /// What becomes of each pipeline.
    fn pairs(&self, wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>) -> Vec<Pair> {
        let running = self.running.lock().clone();
        let whole = running.iter().filter(|(who, r)| who.sink.is_none() && r.ended().is_none());
        let present: BTreeMap<Consumer, Present> =
            whole.map(|(who, r)| (who.clone(), r.present())).collect();
        let (fates, fresh) = decide::fates(&present, wanted);
        let pair = |change, live, edited| Pair { file: None, change, live, edited, notes: vec![] };
        let mut pairs = Vec::new();
        for (Present { plan, .. }, fate) in present.values().zip(fates) {
            let (change, edited) = match fate {
                Fate::Stays(next) => ("unchanged", Some(next)),
                Fate::Changes(next) => ("changed", Some(next)),
                Fate::Renamed(next) => ("renamed", Some(next)),
                Fate::Ends | Fate::Removed | Fate::Apart => ("removed", None),
            };
            pairs.push(pair(change, Some(plan.clone()), edited));
        }
        for plan in fresh {
            let who = Consumer::pipeline(&plan.name);
            let live = self.down.lock().get(&who).and_then(|down| down.plan.clone());
            let change = if live.is_some() { "changed" } else { "new" };
            pairs.push(pair(change, live, Some(plan)));
        }
        pairs
    }

    /// Plans of the pipelines that run, or should.
    fn live(&self) -> BTreeMap<Arc<str>, Arc<PipelinePlan>> {
        let running = self.running.lock().clone();
        let down = self.down.lock();
        let mut live: BTreeMap<_, _> = down
            .iter()
            .filter(|(who, _)| who.sink.is_none())
            .filter_map(|(who, d)| Some((who.pipeline.clone(), d.plan.clone()?)))
            .collect();
        let plan = |r: &Arc<Running>| r.plan.lock().clone();
        let whole = running.iter().filter(|(who, _)| who.sink.is_none()).map(|(_, r)| plan(r));
        live.extend(whole.map(|plan| (plan.name.clone(), plan)));
        live
    }
}

/// What a file that was sent is planned from. What the files that run use has the value that it
/// has there; of the other variables of this process a client learns nothing.
fn bundle(file: &EditedFile, known: &Before) -> Bundle {
    let (files, environment) = (file.files.clone(), file.environment.clone());
    let mut bundle = Bundle { files, environment, ..Bundle::default() };
    bundle.files.insert(file.path.clone(), file.text.clone());
    for other in known.good.values() {
        let used = other.environment.iter().map(|(k, v)| (k.clone(), v.clone()));
        bundle.environment.extend(used);
    }
    bundle
}

/// What is not replayed: other settings of sources.
fn source_notes(live: &Sources, edited: &Sources) -> Vec<String> {
    let other = |(id, source): &(&Arc<str>, &Arc<SourceDefinition>)| {
        live.get(*id).is_some_and(|l| l.resolved != source.resolved)
    };
    let others = edited.iter().filter(other);
    let note = |id| {
        format!(
            "source `{id}` has other settings: entries are decoded with those that took them in"
        )
    };
    others.map(|(id, _)| note(id)).collect()
}

/// What to know of the lookup tables of an edited plan that this server does not have.
///
/// # Errors
/// If nothing stands for one: all that it finds would seem to be missing.
fn guessed(plan: &PipelinePlan) -> Result<Vec<String>, String> {
    let said = plan.guessed.iter().map(|(id, guess)| match guess {
        Guess::Sample => Ok(format!(
            "lookup `{id}` was never read by this server: the rows of its `sample` stand for it"
        )),
        Guess::Nothing => Err(format!(
            "lookup `{id}` was never read by this server, and nothing would be found in it: give it \
             a `sample` of rows to go by, or let the server read it first under the same settings \
             (in a pipeline file of its own)"
        )),
    });
    said.collect()
}

fn names(live: &BTreeMap<Arc<str>, Arc<PipelinePlan>>) -> String {
    let names: Vec<String> = live.keys().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

fn no_pipeline(name: &str, live: &BTreeMap<Arc<str>, Arc<PipelinePlan>>) -> String {
    format!("no pipeline: `{name}`; running are {}", names(live))
}
