//! What a reload does with what runs. Pure: the reload does what is decided here, and
//! [`super::Runtime::plan`] says it before.

mod nodes;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::nodes::{NodeChange, NodeState, Shapes, Turn};
pub(super) use self::nodes::{nodes, shapes};
use super::detached::same_sink;
use super::pipeline::Asked;
use crate::checkpoint::Consumer;
use crate::plan::{PipelinePlan, SourceDefinition};

/// A pipeline or a detached sink that runs.
pub(super) struct Present {
    /// The plan in force.
    pub(super) plan: Arc<PipelinePlan>,
    pub(super) asked: Asked,
}

/// What becomes of a pipeline or a detached sink.
#[derive(Debug)]
pub(super) enum Fate {
    /// It is, or was asked to become, what it shall be.
    Stays(Arc<PipelinePlan>),
    /// It ends at a mark that is set already, and then starts again if it is wanted.
    Ends,
    Changes(Arc<PipelinePlan>),
    /// The same under a new name.
    Renamed(Arc<PipelinePlan>),
    Removed,
    /// A detached sink that does not change at the mark, see [`detached`].
    Apart,
}

/// What becomes of each of those that run, in their order, and which pipelines start.
pub(super) fn fates(
    present: &BTreeMap<Consumer, Present>,
    wanted: &BTreeMap<Arc<str>, Arc<PipelinePlan>>,
) -> (Vec<Fate>, Vec<Arc<PipelinePlan>>) {
    let runs = |p: &&Arc<PipelinePlan>| present.contains_key(&Consumer::pipeline(&p.name));
    let mut fresh: Vec<_> = wanted.values().filter(|p| !runs(p)).cloned().collect();
    let fate = |(who, Present { plan, asked }): (&Consumer, &Present)| {
        let next = wanted.get(&who.pipeline);
        if let Some(sink) = &who.sink
            && !matches!(detached(sink, Some(plan), next), DetachedFate::GoesOn)
        {
            return Fate::Apart;
        }
        match next {
            Some(next) if *asked == Asked::Plan(next.hash.clone()) => Fate::Stays(next.clone()),
            _ if *asked == Asked::Removal => Fate::Ends,
            Some(next) => Fate::Changes(next.clone()),
            None => match fresh.iter().position(|p| p.content == plan.content) {
                Some(renamed) => Fate::Renamed(fresh.remove(renamed)),
                None => Fate::Removed,
            },
        }
    };
    let fates = present.iter().map(fate).collect();
    (fates, fresh)
}

/// What becomes of a detached sink.
pub(super) enum DetachedFate<'a> {
    /// Its pipeline is gone from the files: it is renamed or removed with it.
    WithPipeline,
    /// It is gone from its pipeline.
    Removed,
    /// It does not run, or is another one now: it starts from its checkpoint.
    Restarts(&'a Arc<PipelinePlan>),
    /// It changes at the mark like its pipeline.
    GoesOn,
}

/// What becomes of the detached sink `id` that runs as `present`.
pub(super) fn detached<'a>(
    id: &str,
    present: Option<&PipelinePlan>,
    wanted: Option<&'a Arc<PipelinePlan>>,
) -> DetachedFate<'a> {
    let Some(wanted) = wanted else { return DetachedFate::WithPipeline };
    let Some(part) = wanted.only(id) else { return DetachedFate::Removed };
    match present {
        Some(present) if same_sink(present, &part) => DetachedFate::GoesOn,
        _ => DetachedFate::Restarts(wanted),
    }
}

/// What becomes of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SourceFate {
    /// Nothing.
    Kept,
    /// New settings behind the sockets that stay open.
    Settings,
    /// It is of another type: the old one stops, the new one starts.
    Restarted,
    /// It starts.
    New,
    /// It stops.
    Removed,
}

impl SourceFate {
    /// Whether what runs has to stop.
    pub(super) fn stops(self) -> bool {
        matches!(self, Self::Restarted | Self::Removed)
    }
}

/// What becomes of a source that runs as `present`.
pub(super) fn source(
    present: Option<&Arc<SourceDefinition>>,
    wanted: Option<&Arc<SourceDefinition>>,
) -> SourceFate {
    match (present, wanted) {
        (None, _) => SourceFate::New,
        (Some(_), None) => SourceFate::Removed,
        (Some(p), Some(w)) if p.kind != w.kind => SourceFate::Restarted,
        (Some(p), Some(w)) if p.resolved != w.resolved => SourceFate::Settings,
        (Some(_), Some(_)) => SourceFate::Kept,
    }
}

#[cfg(test)]
mod tests;
