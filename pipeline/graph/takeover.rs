//! Which node takes over which saved state. Pure: a reload does what it says, `weir plan` shows it.

use std::fmt;

use crate::diagnostic::shown;
use crate::plan::{NodePlan, Work};

/// What a node begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Takeover<'a> {
    /// It has no state.
    Stateless,
    /// Nothing was saved for it.
    Nothing,
    /// The state that was saved under this id.
    Of(&'a str),
    /// There is a state, which it cannot take over.
    Dropped(Dropped),
}

/// Why a state is not taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// The node is of another type now.
    Type {
        /// The type before.
        from: String,
        /// The type now.
        to: String,
    },
    /// The same type keeps it in another form, or keeps other things.
    Shape {
        /// The shape that was saved.
        from: String,
        /// The shape that it would need.
        to: String,
    },
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Type { from, to } => write!(f, "its type changed from `{from}` to `{to}`"),
            Self::Shape { from, to } => {
                write!(f, "the shape of its state changed from `{from}` to `{to}`")
            }
        }
    }
}

/// Under which shape the state of a node is saved, if it has one.
pub(crate) fn shape(node: &NodePlan) -> Option<String> {
    let (Work::Operator(plan) | Work::Alert(plan)) = &node.work else { return None };
    // The kind is part of the shape: a `window` does not take over from an operator of the same
    // id and another type.
    Some(format!("{}:{}", node.kind, plan.state_shape()?))
}

/// What `node` takes over of what was `saved`, given as the shape under an id: the state of its
/// own id, else of the id that it `was`, if kind and shape are unchanged.
pub(crate) fn takeover<'a, 's>(
    node: &'a NodePlan,
    saved: impl Fn(&str) -> Option<&'s str>,
) -> Takeover<'a> {
    let Some(shape) = shape(node) else { return Takeover::Stateless };
    let ids = [Some(&*node.id), node.was.as_deref()].into_iter().flatten();
    let found = ids.filter_map(|id| Some((id, saved(id)?))).next();
    match found {
        None => Takeover::Nothing,
        Some((id, found)) if found == shape => Takeover::Of(id),
        Some((_, found)) => Takeover::Dropped(dropped(node, found, &shape)),
    }
}

fn dropped(node: &NodePlan, from: &str, to: &str) -> Dropped {
    let parts = |shape: &str| {
        let (kind, shape) = shape.split_once(':').unwrap_or((shape, ""));
        // It quotes expressions.
        (kind.to_owned(), shown(shape, &node.header.file))
    };
    let ((kind, from), (_, to)) = (parts(from), parts(to));
    if kind == node.kind {
        Dropped::Shape { from, to }
    } else {
        Dropped::Type { from: kind, to: node.kind.to_owned() }
    }
}
