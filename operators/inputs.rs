//! What the inputs of an operator have in common.

use weir_pipeline::config::Scope;
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::Signal;

/// One edge for all inputs: every column that one of them knows, with its type where all agree
/// that know it; open if one of them is.
pub(crate) fn merged(scope: &Scope) -> Edge {
    let mut inputs = scope.inputs.iter().map(|i| &i.edge);
    let Some(first) = inputs.next() else { return Edge::open(Signal::named("none")) };
    let mut edge = first.clone();
    for other in inputs {
        for (name, data_type) in &other.columns {
            match edge.columns.get_mut(name) {
                None => {
                    edge.columns.insert(name.clone(), data_type.clone());
                }
                Some(known) if known != data_type => *known = None,
                Some(_) => {}
            }
        }
        edge.open |= other.open;
    }
    edge
}
