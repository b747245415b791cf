//! From the folder of pipeline files to the plan of what shall run.
//!
//! All files are planned together. A file with a mistake falls back to its last good version (or
//! is left out where there is none), and the rest is planned again with that, until nothing is
//! wrong any more: what needs the broken file's new definitions falls back too, and says why.
//! A file that stops defining a source that others still read falls back as well.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::bundle::Bundle;
use super::check::redact;
use super::environment::Environment;
use super::file::{self, Group, PipelineFile};
use super::planner::{Planned, Planner, SourceInfo};
use super::tree::{self, Value};
use crate::component::Components;
use crate::diagnostic::{Diagnostic, Diagnostics, Severity, SourceText, Span};
use crate::edge::ERRORS;
use crate::lookup::{Tables, Versions};
use crate::plan::{PipelinePlan, Plan, SourceDefinition};

/// The code of a file that cannot be read.
const UNREADABLE: &str = "W002";

mod edited;
mod present;

pub use self::edited::bundle_of;
pub(crate) use self::edited::{moved, name_of, plan_beside};
pub use self::present::Present;
use self::present::read_version;

/// The last good version of every file, by path as shown; what a reload hands to the next one.
pub type LastGood = BTreeMap<String, Bundle>;

/// What came of a folder.
#[derive(Debug, Default)]
pub struct Loaded {
    /// What shall run.
    pub plan: Plan,
    /// Everything that is wrong, and warnings, in the order of files and places.
    pub diagnostics: Diagnostics,
    /// Every file that there is or that still runs.
    pub files: Vec<FileStatus>,
    /// To be kept for the next time.
    pub good: LastGood,
    /// The files that each file was found to name, of those that could be read.
    named: BTreeMap<String, Arc<BTreeMap<String, String>>>,
}

/// What became of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileStatus {
    /// Path as shown.
    pub path: PathBuf,
    /// Which version of it runs.
    pub state: FileState,
    /// SHA-256, hex, of the present text; empty if it cannot be read or is gone.
    pub hash: String,
}

/// Which version of a file runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileState {
    /// The present one.
    Live,
    /// The last good one, because something is wrong with the present one.
    Kept,
    /// None: something is wrong with it, and there is no good version.
    LeftOut,
}

/// A version of a file, ready to be planned.
#[derive(Clone, Debug)]
struct Version {
    text: Arc<SourceText>,
    /// What its pipeline is called whatever it says itself.
    name: Option<String>,
    environment: Environment,
    given: Option<Arc<BTreeMap<String, String>>>,
    lookups: Versions,
}

impl Version {
    fn of_bundle(path: &str, bundle: &Bundle) -> Option<Self> {
        let text = bundle.files.get(path)?.clone();
        Some(Self {
            text: Arc::new(SourceText { path: path.into(), text }),
            name: None,
            environment: Environment::Fixed(bundle.environment.clone()),
            given: Some(Arc::new(bundle.files.clone())),
            lookups: Versions::Newest,
        })
    }

    /// With the very lookup tables that it had.
    fn as_it_was(path: &str, bundle: &Bundle) -> Option<Self> {
        let lookups = Versions::These(Arc::new(bundle.lookups.clone()));
        Some(Self { lookups, ..Self::of_bundle(path, bundle)? })
    }

    /// With the newest lookup tables; of those that are not known those that it had.
    fn as_it_is(path: &str, bundle: &Bundle) -> Option<Self> {
        let lookups = Versions::NewestOr(Arc::new(bundle.lookups.clone()));
        Some(Self { lookups, ..Self::of_bundle(path, bundle)? })
    }
}

/// What came of planning some versions together.
#[derive(Default)]
struct Attempt {
    wrong: BTreeMap<String, Diagnostics>,
    /// Inputs that name no source: file, source id, place.
    unknown: Vec<(String, String, Span)>,
    doubled: Vec<Doubled>,
    bundles: BTreeMap<String, Bundle>,
    plan: Plan,
}

/// One thing defined in two files.
struct Doubled {
    code: &'static str,
    /// "source `otlp`"
    what: String,
    hint: &'static str,
    /// Its id, if it is a source.
    source: Option<String>,
    places: [(String, Span); 2],
}

impl Doubled {
    /// What to say of it at its place `at`.
    fn said(&self, at: &Span, other: &Span) -> Diagnostic {
        Diagnostic::error(self.code, format!("{} is defined twice", self.what))
            .at(at)
            .related(other, "it is defined here too")
            .hint(self.hint)
    }
}

/// Reads and plans the pipeline files of `folder`, see [`Present::plan`].
pub fn load(
    folder: &Path,
    components: &Components,
    (environment, tables): (&Environment, &Tables),
    good: &LastGood,
    refused: &BTreeMap<PathBuf, Diagnostics>,
) -> Loaded {
    Present::read(folder, environment).plan(components, tables, good, refused)
}

struct Loader<'a> {
    good: &'a LastGood,
    states: BTreeMap<String, FileState>,
    /// Last good versions that do not go together with what their lookup tables hold now.
    frozen: BTreeSet<String>,
    said: Diagnostics,
    named: BTreeMap<String, Arc<BTreeMap<String, String>>>,
}

impl Loader<'_> {
    fn fall_back(&mut self, path: &str) {
        if self.states.get(path) == Some(&FileState::Kept) && self.frozen.insert(path.to_owned()) {
            return;
        }
        let next = match self.states.get(path) {
            Some(FileState::Live) | None if self.good.contains_key(path) => FileState::Kept,
            _ => FileState::LeftOut,
        };
        self.states.insert(path.to_owned(), next);
    }

    /// Falls back until nothing is wrong. Each round takes at least one file one step down, so
    /// this ends.
    fn settle(
        &mut self,
        present: &BTreeMap<String, Result<Version, Diagnostics>>,
        components: &Components,
        tables: &Tables,
    ) -> Attempt {
        let mut first = true;
        loop {
            let kept: BTreeMap<String, Version> = self
                .states
                .iter()
                .filter(|(_, state)| **state == FileState::Kept)
                .filter_map(|(p, _)| {
                    let version = match self.frozen.contains(p) {
                        true => Version::as_it_was(p, self.good.get(p)?),
                        false => Version::as_it_is(p, self.good.get(p)?),
                    };
                    Some((p.clone(), version?))
                })
                .collect();
            let live = self.states.iter().filter(|(_, state)| **state == FileState::Live);
            let versions: BTreeMap<&str, &Version> = live
                .filter_map(|(p, _)| Some((p.as_str(), present.get(p)?.as_ref().ok()?)))
                .chain(kept.iter().map(|(p, v)| (p.as_str(), v)))
                .collect();
            let mut attempt = attempt(&versions, components, tables);
            let named = self.named(&attempt);
            let (failing, removed) = self.failing(&mut attempt, &versions);
            for (path, files) in named {
                self.named.entry(path).or_insert(files);
            }
            self.said.0.extend(removed);
            self.report(&attempt, first, &failing);
            if failing.is_empty() {
                return attempt;
            }
            for path in &failing {
                self.fall_back(path);
            }
            first = false;
        }
    }

    /// What files name in their present versions, if all of it could be read.
    fn named(&self, attempt: &Attempt) -> BTreeMap<String, Arc<BTreeMap<String, String>>> {
        let whole = attempt.bundles.iter().filter(|(path, _)| {
            let mut wrong = attempt.wrong.get(*path).into_iter().flat_map(|w| &w.0);
            self.states.get(*path) == Some(&FileState::Live) && !wrong.any(|d| d.code == UNREADABLE)
        });
        whole.map(|(path, bundle)| (path.clone(), Arc::new(bundle.files.clone()))).collect()
    }

    /// Files that cannot run in this version, given the others.
    fn failing(
        &self,
        attempt: &mut Attempt,
        versions: &BTreeMap<&str, &Version>,
    ) -> (BTreeSet<String>, Vec<Diagnostic>) {
        let mut failing = BTreeSet::new();
        let mut said = Vec::new();
        // A source that vanished although it is read: the file that dropped it is at fault, not
        // the one that reads it.
        let unknown = std::mem::take(&mut attempt.unknown);
        for (reader, source, at) in unknown {
            let definer = self.good.iter().find(|(path, bundle)| {
                let state = self.states.get(*path);
                !matches!(state, Some(FileState::Kept | FileState::LeftOut))
                    && bundle.files.get(*path).is_some_and(|text| defines(text, &source))
            });
            let Some((definer, _)) = definer else { continue };
            let message = format!("source `{source}` is removed, but `{reader}` reads it");
            let removed = Diagnostic::error("W042", message)
                .at(&at)
                .label("still read here")
                .hint(format!("`{definer}` keeps its last good version, which defines it"));
            let list = attempt.wrong.entry(reader).or_default();
            list.0.retain(|d| d.code != "W023" || d.span.as_ref() != Some(&at));
            failing.insert(definer.clone());
            said.push(removed);
        }
        for (path, wrong) in &attempt.wrong {
            if wrong.has_errors() {
                failing.insert(path.clone());
            }
        }
        // Of two files with the same definition, the one that had it goes on.
        for double in std::mem::take(&mut attempt.doubled) {
            let had = |path: &str| {
                self.good
                    .get(path)
                    .and_then(|b| b.files.get(path))
                    .is_some_and(|text| double.source.as_ref().is_none_or(|id| defines(text, id)))
            };
            let [first, second] = &double.places;
            let (old, new) =
                if had(&second.0) && !had(&first.0) { (second, first) } else { (first, second) };
            let twice = double.said(&new.1, &old.1);
            attempt.wrong.entry(new.0.clone()).or_default().push(twice);
            failing.insert(new.0.clone());
        }
        failing.retain(|path| versions.contains_key(path.as_str()) || self.good.contains_key(path));
        (failing, said)
    }

    /// The first round says everything; later ones only why further files fall back.
    fn report(&mut self, attempt: &Attempt, first: bool, failing: &BTreeSet<String>) {
        if first {
            for wrong in attempt.wrong.values() {
                self.said.0.extend(wrong.0.iter().cloned());
            }
            return;
        }
        for path in failing {
            let errors = attempt.wrong.get(path).into_iter().flat_map(|w| &w.0);
            let Some(cause) = errors.clone().find(|d| d.severity == Severity::Error) else {
                continue;
            };
            let kept = self.states.get(path) == Some(&FileState::Kept);
            if kept && !self.frozen.contains(path) {
                // It runs with the tables that it had.
                continue;
            }
            let (code, message) = match self.states.get(path) {
                Some(FileState::Live) => {
                    ("W041", format!("`{path}` needs what is wrong in another file"))
                }
                _ => ("W043", format!("the last good version of `{path}` cannot run any more")),
            };
            let mut why = Diagnostic::error(code, message).label(cause.message.clone());
            if let Some(span) = &cause.span {
                why = why.at(span);
            }
            self.said.push(why);
        }
    }
}

/// Whether a file's text defines a source.
fn defines(text: &str, source: &str) -> bool {
    let file = Arc::new(SourceText { path: PathBuf::new(), text: text.to_owned() });
    let (table, _) = tree::parse(&file);
    matches!(table.get("sources").map(|e| &e.node.value),
        Some(Value::Table(sources)) if sources.get(source).is_some())
}

/// Plans versions of files together.
fn attempt(
    versions: &BTreeMap<&str, &Version>,
    components: &Components,
    tables: &Tables,
) -> Attempt {
    let mut result = Attempt::default();
    let mut files: Vec<(&str, &Version, PipelineFile)> = Vec::new();
    for (path, version) in versions {
        let (mut file, wrong) = file::read(version.text.clone(), &version.environment);
        if let Some(name) = &version.name {
            file.name.clone_from(name);
        }
        result.wrong.insert((*path).to_owned(), wrong);
        files.push((path, version, file));
    }
    let planner =
        |v: &Version, f| Planner::new(components, v.given.clone(), (tables, v.lookups.clone()), f);
    let mut planners: Vec<Planner<'_>> = files.iter().map(|(_, v, f)| planner(v, f)).collect();
    for planner in &mut planners {
        result.plan.lookups.extend(planner.lookups());
    }
    let mut sources: BTreeMap<String, SourceInfo> = BTreeMap::new();
    let mut names: BTreeMap<&str, (&str, &Span)> = BTreeMap::new();
    for (i, (path, _, file)) in files.iter().enumerate() {
        for (id, info) in planners[i].sources() {
            if let Some(other) = sources.get(&id) {
                let path_of = |span: &Span| span.file.path.display().to_string();
                result.doubled.push(Doubled {
                    code: "W021",
                    what: format!("source `{id}`"),
                    hint: "define it once; any file can read it",
                    places: [
                        (path_of(&other.place), other.place.clone()),
                        ((*path).to_owned(), info.place),
                    ],
                    source: Some(id),
                });
            } else {
                sources.insert(id, info);
            }
        }
        if file.parts.iter().any(|p| p.group.is_node()) {
            if let Some((other, place)) = names.get(file.name.as_str()) {
                result.doubled.push(Doubled {
                    code: "W028",
                    what: format!("pipeline `{}`", file.name),
                    hint: "give one of them another `name`",
                    source: None,
                    places: [
                        ((*other).to_owned(), (*place).clone()),
                        ((*path).to_owned(), file.name_at.clone()),
                    ],
                });
            } else {
                names.insert(&file.name, (path, &file.name_at));
            }
        }
    }
    let mut reads = BTreeSet::new();
    for (i, (path, ..)) in files.iter().enumerate() {
        let Planned { pipeline, reads: read, unknown } = planners[i].pipeline(&sources);
        reads.extend(read);
        result.unknown.extend(unknown.into_iter().map(|(s, at)| ((*path).to_owned(), s, at)));
        if let Some(pipeline) = pipeline {
            result.plan.pipelines.insert(pipeline.name.clone(), Arc::new(pipeline));
        }
    }
    for ((path, _, file), planner) in files.iter().zip(planners) {
        let list = result.wrong.entry((*path).to_owned()).or_default();
        list.0.extend(planner.wrong.0);
        if files.iter().all(|(.., f)| f.whole) {
            list.0.extend(unread(file, &sources, &reads));
        }
        redact(list, &file.text, &planner.secrets);
        result.bundles.insert((*path).to_owned(), planner.bundle);
    }
    result.plan.sources = sources
        .into_iter()
        .filter_map(|(id, info)| Some((id.as_str().into(), info.definition?)))
        .collect();
    result
}

/// Outputs of the sources of a file that nobody in any file reads.
fn unread(
    file: &PipelineFile,
    sources: &BTreeMap<String, SourceInfo>,
    reads: &BTreeSet<String>,
) -> Vec<Diagnostic> {
    let mut warnings = Vec::new();
    for part in file.parts.iter().filter(|p| p.group == Group::Source) {
        let id = &part.section.id;
        let info = sources.get(id).filter(|s| s.place == part.section.header);
        let Some(outputs) = info.and_then(|s| s.outputs.as_ref()) else { continue };
        let unread: Vec<String> = outputs
            .iter()
            .filter(|o| o.name != ERRORS)
            .map(|o| if o.name.is_empty() { id.clone() } else { format!("{id}.{}", o.name) })
            .filter(|name| !reads.contains(name))
            .collect();
        if !unread.is_empty() {
            let message = format!("nobody reads `{}`", unread.join("`, `"));
            let warning = Diagnostic::warning("W027", message)
                .at(&part.section.header)
                .hint(format!("add a sink with `inputs = [\"{}\"]`", unread[0]));
            warnings.push(warning);
        }
    }
    warnings
}

/// By file and place; the same thing is said once.
fn sort(diagnostics: &mut Diagnostics) {
    let place =
        |d: &Diagnostic| d.span.as_ref().map(|s| (s.file.path.clone(), s.range.start, s.range.end));
    diagnostics.0.sort_by_key(place);
    diagnostics.0.dedup();
}

/// Plans a pipeline again from what was kept of it, and the sources that it reads.
///
/// # Errors
/// If this binary cannot plan it.
pub fn plan_from_bundle(
    bundle: &Bundle,
    pipeline: &str,
    components: &Components,
    tables: &Tables,
) -> Result<(PipelinePlan, Vec<Arc<SourceDefinition>>), Diagnostics> {
    let mut attempt = from_bundle(bundle, components, tables);
    let plan = attempt.plan.pipelines.remove(pipeline).and_then(Arc::into_inner);
    let plan = plan.ok_or_else(|| failed(&attempt, &format!("pipeline `{pipeline}`")))?;
    Ok((plan, attempt.plan.sources.into_values().collect()))
}

/// Plans a source again from what was kept of it.
///
/// # Errors
/// If this binary cannot plan it.
pub fn source_from_bundle(
    bundle: &Bundle,
    source: &str,
    components: &Components,
) -> Result<SourceDefinition, Diagnostics> {
    let mut attempt = from_bundle(bundle, components, &Tables::nothing());
    attempt.plan.pipelines.clear(); // they hold no source, but may be many
    let definition = attempt.plan.sources.remove(source).and_then(Arc::into_inner);
    definition.ok_or_else(|| failed(&attempt, &format!("source `{source}`")))
}

fn from_bundle(bundle: &Bundle, components: &Components, tables: &Tables) -> Attempt {
    let versions: BTreeMap<&str, Version> = bundle
        .files
        .keys()
        .filter(|path| path.ends_with(".toml"))
        .filter_map(|path| Some((path.as_str(), Version::as_it_was(path, bundle)?)))
        .collect();
    attempt(&versions.iter().map(|(p, v)| (*p, v)).collect(), components, tables)
}

fn failed(attempt: &Attempt, what: &str) -> Diagnostics {
    let all = attempt.wrong.values().flat_map(|w| w.0.iter());
    let mut errors = Diagnostics(all.filter(|d| d.severity == Severity::Error).cloned().collect());
    if errors.0.is_empty() {
        errors.push(Diagnostic::error("W044", format!("{what} is not in what was kept of it")));
    }
    errors
}
