//! What the inputs of an operator have in common.

use weir_pipeline::config::Scope;
use weir_pipeline::edge::Edge;

/// One edge for all inputs.
pub(crate) fn merged(scope: &Scope) -> Edge {
    Edge::merged(scope.inputs.iter().map(|i| &i.edge))
}
