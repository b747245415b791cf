//! Programs that touch whole columns only, so that a path can be found once per batch instead of
//! once per row.
//!
//! A batch is *flat* for a program if every path that the program touches is one column of its own:
//! no column stands below it or holds it as part of an object, and none may be in the JSON of the
//! overflow. Then a path reads, sets and deletes that one column, whatever is in the rows.

use arrow::datatypes::DataType;
use vrl::path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix};
use weir_pipeline::batch::Batch;
use weir_pipeline::signal::ATTRIBUTES;

use super::values::is_json;

/// The columns of a program, and its paths in them.
#[derive(Debug)]
pub(super) struct Flat {
    /// Sorted; none stands below another.
    pub(super) names: Vec<Name>,
    pub(super) paths: Vec<Path>,
}

/// A column that a program touches.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) name: String,
    /// Whether what the program does can depend on its value.
    pub(super) read: bool,
}

/// A path of the program.
#[derive(Debug)]
pub(super) struct Path {
    pub(super) path: OwnedTargetPath,
    /// Its column, in [`Flat::names`].
    pub(super) column: usize,
    /// The place in the value of the column.
    pub(super) rest: OwnedValuePath,
}

impl Flat {
    /// Of a program with these paths. `None` if it may touch the row as a whole, or a column and
    /// one below it.
    pub(super) fn of(queries: &[OwnedTargetPath], assignments: &[OwnedTargetPath]) -> Option<Self> {
        let event = |p: &&OwnedTargetPath| p.prefix == PathPrefix::Event;
        let queries = queries.iter().filter(event).map(|p| (p, true));
        let assignments = assignments.iter().filter(event).map(|p| (p, false));
        let mut names: Vec<Name> = Vec::new();
        let mut split = Vec::new();
        for (path, query) in queries.chain(assignments) {
            let (name, rest) = column_of(&path.path)?;
            // What is set inside a value depends on the value.
            names.push(Name { name: name.clone(), read: query || !rest.is_root() });
            split.push((path.clone(), name, rest));
        }
        names.sort_by(|a, b| a.name.cmp(&b.name).then(b.read.cmp(&a.read)));
        names.dedup_by(|later, first| later.name == first.name);
        let nested = names.iter().any(|a| names.iter().any(|b| is_below(&a.name, &b.name)));
        let reserved = names.iter().any(|n| n.name == ATTRIBUTES || is_below(&n.name, ATTRIBUTES));
        if nested || reserved {
            return None;
        }
        split.sort_by(|a, b| a.0.cmp(&b.0));
        split.dedup_by(|a, b| a.0 == b.0);
        let path = |(path, name, rest): (OwnedTargetPath, String, OwnedValuePath)| {
            let column = names.iter().position(|n| n.name == name)?;
            Some(Path { path, column, rest })
        };
        let paths = split.into_iter().map(path).collect::<Option<_>>()?;
        Some(Self { names, paths })
    }

    /// Whether `batch` is flat for the program.
    pub(super) fn suits(&self, batch: &Batch) -> bool {
        if batch.overflow().is_some() {
            return false;
        }
        let names = || self.names.iter().map(|n| n.name.as_str());
        let rows = batch.rows().schema_ref().fields().iter().all(|field| {
            let deep = is_json(field)
                || matches!(field.data_type(), DataType::Struct(_) | DataType::List(_));
            let holds = |n: &str| deep && is_below(n, field.name());
            let apart = |n: &str| !(is_below(field.name(), n) || holds(n));
            names().all(apart)
        });
        rows && batch.entities().is_none_or(|keys| {
            keys.table.names().iter().all(|column| names().all(|n| !is_below(column, n)))
        })
    }
}

/// Whether the column `name` stands below `other`.
fn is_below(name: &str, other: &str) -> bool {
    name.strip_prefix(other).is_some_and(|rest| rest.starts_with('.'))
}

/// The column of a path, and what follows in its value; `None` for the row itself.
fn column_of(path: &OwnedValuePath) -> Option<(String, OwnedValuePath)> {
    let fields = path.segments.iter().map_while(|segment| match segment {
        OwnedSegment::Field(name) => Some(name.as_str()),
        OwnedSegment::Index(_) => None,
    });
    let fields: Vec<&str> = fields.collect();
    let rest = path.segments[fields.len()..].to_vec();
    (!fields.is_empty()).then(|| (fields.join("."), OwnedValuePath::from(rest)))
}
