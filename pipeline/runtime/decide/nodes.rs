//! What becomes of a pipeline's nodes when it changes.

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::pipeline::{is_gone, keeps_sink};
use crate::graph::{Dropped, Takeover, shape, takeover};
use crate::plan::{NodePlan, PipelinePlan, Work};

/// What becomes of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct NodeChange {
    /// Id.
    pub id: String,
    /// `type`.
    pub kind: &'static str,
    /// `operator`, `alert`, `sink`.
    pub class: &'static str,
    /// What happens to it.
    pub change: Turn,
    /// What happens to its state.
    pub state: NodeState,
    /// The id whose state it takes over, if it is not its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub was: Option<String>,
    /// Why its state is not taken over, and what would change that; or what else changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Where the shape of the state is the reason: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shapes: Option<Shapes>,
    /// File and line of its definition.
    pub place: String,
}

/// What happens to a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Turn {
    /// Its definition is the same.
    Kept,
    /// It is another now.
    Changed,
    /// It starts.
    New,
    /// It goes.
    Removed,
}

/// What happens to the state of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeState {
    /// It has none.
    None,
    /// It is taken over.
    Kept,
    /// It starts empty, since nothing was saved for it.
    Empty,
    /// It starts empty, and what was held is lost.
    Dropped,
    /// What was held is emitted first (windows close, alerts resolve); after that there is none.
    Emitted,
}

/// Shapes of a state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shapes {
    /// As saved.
    pub from: String,
    /// As needed.
    pub to: String,
}

/// State shapes of a plan's nodes, by id: what it saves at a mark.
pub(in super::super) fn shapes(plan: &PipelinePlan) -> BTreeMap<String, String> {
    plan.nodes.iter().filter_map(|n| Some((n.id.to_string(), shape(n)?))).collect()
}

/// What becomes of each node of `present` when it is built as `next` with the states `saved`
/// (shape by id): first those of `next` in their order, then those that are gone.
pub(in super::super) fn nodes(
    present: &PipelinePlan,
    next: &PipelinePlan,
    saved: &BTreeMap<String, String>,
) -> Vec<NodeChange> {
    let stay = next.nodes.iter().map(|node| {
        let before = present.nodes.iter().find(|n| n.id == node.id);
        let mut change = NodeChange::of(node, turn(present, next, before, node));
        match takeover(node, |id| saved.get(id).map(String::as_str)) {
            Takeover::Stateless => {}
            Takeover::Nothing => {
                change.state = NodeState::Empty;
                change.why = unclaimed(present, next, node, saved);
            }
            Takeover::Of(id) => {
                change.state = NodeState::Kept;
                change.was = (*id != *node.id).then(|| id.to_owned());
            }
            Takeover::Dropped(why) => {
                change.state = NodeState::Dropped;
                change.why = Some(why.to_string());
                if let Dropped::Shape { from, to } = why {
                    change.shapes = Some(Shapes { from, to });
                }
            }
        }
        // One of another type in its place: the old one goes like any other.
        if let Some(before) = before.filter(|b| b.kind != node.kind)
            && shape(before).is_some()
            && is_gone(present, next, &node.id)
        {
            let why = Dropped::Type { from: before.kind.to_owned(), to: node.kind.to_owned() };
            change.state = NodeState::Emitted;
            change.why = Some(why.to_string());
        }
        // It decides nothing about its state.
        if before.is_some_and(|b| b.backlog != node.backlog) && change.why.is_none() {
            change.why = Some("its `backlog` changes".to_owned());
        }
        change
    });
    let goes = |n: &&NodePlan| !next.nodes.iter().any(|m| m.id == n.id);
    let gone = present.nodes.iter().filter(goes).map(|node| {
        let mut change = NodeChange::of(node, Turn::Removed);
        let taker = next.nodes.iter().find(|n| n.was.as_ref() == Some(&node.id));
        if shape(node).is_some() {
            // One that is not gone was taken over, or should have been: the taker says which.
            let emits = is_gone(present, next, &node.id);
            change.state = if emits { NodeState::Emitted } else { NodeState::None };
            let taker = taker.filter(|_| !emits);
            change.why = taker.map(|n| format!("it is `{}` now", n.id));
        }
        change
    });
    stay.chain(gone).collect()
}

fn turn(
    present: &PipelinePlan,
    next: &PipelinePlan,
    before: Option<&NodePlan>,
    node: &NodePlan,
) -> Turn {
    let Some(before) = before else { return Turn::New };
    let kept = match &node.work {
        Work::Sink(_) => keeps_sink(present, next, before),
        Work::Operator(_) | Work::Alert(_) => before.resolved == node.resolved,
    };
    if kept { Turn::Kept } else { Turn::Changed }
}

/// A state that nobody takes over, and that this node could: an id that changed without `was`.
fn unclaimed(
    present: &PipelinePlan,
    next: &PipelinePlan,
    node: &NodePlan,
    saved: &BTreeMap<String, String>,
) -> Option<String> {
    let shape = shape(node);
    let fits = |n: &&NodePlan| {
        is_gone(present, next, &n.id)
            && !next.nodes.iter().any(|m| m.id == n.id)
            && saved.get(&*n.id) == shape.as_ref()
    };
    let lost = present.nodes.iter().find(fits)?;
    let id = &lost.id;
    Some(format!("if it is `{id}` under a new id, `was = \"{id}\"` takes over its state"))
}

impl NodeChange {
    fn of(node: &NodePlan, change: Turn) -> Self {
        let (line, _) = node.header.line_column();
        Self {
            id: node.id.to_string(),
            kind: node.kind,
            class: node.work.class(),
            change,
            state: NodeState::None,
            was: None,
            why: None,
            shapes: None,
            place: format!("{}:{line}", node.header.file.path.display()),
        }
    }
}
