//! The schema of an edge between two nodes, as far as planning knows it.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;

use crate::config::one_of;
use crate::diagnostic::{Diagnostic, Span, nearest};
use crate::signal::{ATTRIBUTES, Signal};

/// The output of rows that an operator could not process.
pub const ERRORS: &str = "errors";

/// Columns that a rejected row has besides its own: why, where in the program or file, and which
/// component (`pipeline/id`) rejected it.
pub const ERROR_COLUMNS: [&str; 3] = ["weir.error", "weir.place", "weir.component"];

/// Attributes that nearly everything has, though no signal needs them: whoever writes a name close
/// to one of them means it.
const USUAL: [&str; 8] = [
    "service.name",
    "service.namespace",
    "service.version",
    "service.instance.id",
    "deployment.environment.name",
    "host.name",
    "k8s.namespace.name",
    "k8s.pod.name",
];

/// What flows along an edge. After `window` it is closed: a name that is not listed is an error.
/// After a source or `vrl` it is open: any other name may come, and reads as NULL until it does.
#[derive(Clone, Debug, PartialEq)]
pub struct Edge {
    /// What kind of telemetry.
    pub signal: Signal,
    /// Columns that are known, with their type where it is fixed.
    pub columns: BTreeMap<String, Option<DataType>>,
    /// Whether other names may come.
    pub open: bool,
}

impl Edge {
    /// The open edge of a signal: its canonical columns, and whatever else arrives.
    pub fn open(signal: Signal) -> Self {
        let mut columns: BTreeMap<String, Option<DataType>> =
            signal.row_columns().iter().map(|(n, t)| ((*n).to_owned(), Some(t.clone()))).collect();
        for name in signal.entity_columns() {
            columns.insert((*name).to_owned(), Some(DataType::Utf8));
        }
        Self { signal, columns, open: true }
    }

    /// One edge for several: every column that one of them knows, with its type where all agree
    /// that know it; open if one of them is, or if there is none.
    pub fn merged<'a>(mut edges: impl Iterator<Item = &'a Self>) -> Self {
        let Some(first) = edges.next() else { return Self::open(Signal::named("none")) };
        let mut edge = first.clone();
        for other in edges {
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

    /// The names that people may mean here, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        let usual = USUAL.iter().copied().filter(|_| self.open);
        self.columns.keys().map(String::as_str).chain(usual)
    }

    /// The type of column `name` where planning knows it.
    pub fn column_type(&self, name: &str) -> Option<&DataType> {
        self.columns.get(name)?.as_ref()
    }

    /// What is to say about the use of column `name` at `span`: on a closed edge a name that is
    /// not listed is an error; on an open one a warning if it is within two edits of a known name.
    pub fn check(&self, name: &str, span: &Span) -> Option<Diagnostic> {
        let special = name == ATTRIBUTES || name.starts_with("resource.");
        if (self.open && special) || self.names().any(|n| n == name) {
            return None;
        }
        let known = || self.names();
        if !self.open {
            let unknown = Diagnostic::error("W030", format!("column `{name}` does not exist here"));
            let label = match nearest(name, known()) {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("expected {}", one_of(known())),
            };
            return Some(unknown.at(span).label(label));
        }
        // Short names are two edits from anything.
        let near = nearest(name, known()).filter(|near| {
            name.chars().count() >= 4 && strsim::damerau_levenshtein(name, near) <= 2
        })?;
        let message = format!("column `{name}` may never come");
        let warning = Diagnostic::warning("W031", message).at(span);
        Some(warning.label(format!("did you mean `{near}`?")))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::diagnostic::SourceText;

    #[track_caller]
    fn check(edge: &Edge, name: &str, expect: &str) {
        let file = Arc::new(SourceText { path: "x.toml".into(), text: name.to_owned() });
        let span = Span { file, range: 0..name.len() };
        let got = edge.check(name, &span).map_or(String::new(), |d| {
            format!("{}: {}, {}", d.code, d.message, d.label.unwrap_or_default())
        });
        assert_eq!(got, expect);
    }

    #[test]
    fn open_edges_warn_and_closed_ones_refuse() {
        let open = Edge::open(Signal::Logs);
        check(&open, "severity", "");
        check(&open, "http.route", "");
        check(&open, "resource.timestamp", "");
        check(&open, "bdy", "");
        check(&open, "host.name", "");
        let near = "did you mean `service.name`?";
        check(&open, "service.nme", &format!("W031: column `service.nme` may never come, {near}"));
        check(&open, "severty", "W031: column `severty` may never come, did you mean `severity`?");
        let columns = ["window_start", "errors"].map(|n| (n.to_owned(), None));
        let closed = Edge { signal: Signal::named("errors"), columns: columns.into(), open: false };
        check(&closed, "errors", "");
        check(&closed, "error", "W030: column `error` does not exist here, did you mean `errors`?");
        let expected = "expected `errors` or `window_start`";
        check(&closed, "x", &format!("W030: column `x` does not exist here, {expected}"));
        check(
            &closed,
            "attributes",
            &format!("W030: column `attributes` does not exist here, {expected}"),
        );
    }
}
