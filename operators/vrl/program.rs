//! A program, compiled against the schema of the edge it stands on.

use vrl::compiler::state::{ExternalEnv, LocalEnv, TypeState};
use vrl::compiler::{CompileConfig, Context, Program, Target, TimeZone, compile_with_state};
use vrl::compiler::{ExpressionError, state::RuntimeState};
use vrl::diagnostic::{DiagnosticList, Severity};
use vrl::path::{OwnedSegment, OwnedTargetPath, OwnedValuePath, PathPrefix};
use vrl::value::Kind;
use vrl::value::kind::Collection;
use weir_pipeline::component::OperatorError;
use weir_pipeline::config::{Lookups, Text};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics, nearest};
use weir_pipeline::edge::Edge;

use arrow::datatypes::DataType;

use super::flat::Flat;
use super::functions::{self, REFUSED, reads_place_or_time};
use super::moves::Moves;

/// A compiled program and what it touches.
#[derive(Debug)]
pub(super) struct Compiled {
    /// Id of the operator: others draw other numbers for the same row.
    pub(super) node: Box<str>,
    program: Program,
    text: Text,
    timezone: TimeZone,
    /// Every path that it can read or delete, for [`super::row::Row::new`].
    pub(super) slots: Vec<OwnedTargetPath>,
    /// Column names that it can read, set or delete, without those below them; `None` if it can
    /// touch the whole row.
    pub(super) names: Option<Vec<String>>,
    /// Column names that it reads and never sets or deletes.
    pub(super) reads: Vec<String>,
    /// Whether it reads `%`, `now` or a function of chance.
    pub(super) place_or_time: bool,
    /// Its columns, if it touches columns as such.
    pub(super) flat: Option<Flat>,
    /// Its statements, if they do nothing but move columns.
    pub(super) moves: Option<Moves>,
}

/// How a program ended on one row.
pub(super) enum End {
    /// To its end, or by `return`.
    Done,
    /// By `abort`.
    Aborted,
    /// It failed.
    Failed(OperatorError),
}

/// Compiles `text` of the operator `node` for rows of `edge`; warnings are given beside the program.
pub(super) fn compile(
    node: &str,
    text: Text,
    edge: &Edge,
    lookups: &Lookups,
) -> Result<(Compiled, Vec<Diagnostic>), Diagnostics> {
    let functions = functions::all();
    let state = TypeState {
        local: LocalEnv::default(),
        external: ExternalEnv::new_with_kind(kind_of(edge), metadata_kind()),
    };
    let mut config = CompileConfig::default();
    config.set_read_only_path(OwnedTargetPath::metadata_root(), true);
    config.set_custom(functions::ChanceCalls::default());
    config.set_custom(lookups.clone());
    let compiled = compile_with_state(&text.text, &functions, &state, config)
        .map_err(|list| Diagnostics(diagnostics(&list, &text)))?;
    let mut warnings = diagnostics(&compiled.warnings, &text);
    let program = compiled.program;
    let info = program.info();
    let set: Vec<_> = info.target_assignments.iter().map(|p| &p.path).collect();
    let read = info.target_queries.iter().filter(|p| p.prefix == PathPrefix::Event);
    let read = read.filter(|p| !set.contains(&&p.path));
    let reads: Vec<String> = read.filter_map(|p| field_name(&p.path)).collect();
    for name in &reads {
        // Quoted parts of a path stand otherwise in the text: they are left alone.
        let Some(at) = text.text.find(&format!(".{name}")) else { continue };
        let place = text.locate(at + 1..at + 1 + name.len());
        let said = edge.check(name, &place).filter(|d| d.code == "W031");
        warnings.extend(said.filter(|d| !warnings.contains(d)));
    }
    let mut slots = info.target_queries.clone();
    slots.push(OwnedTargetPath::event_root());
    slots.sort();
    slots.dedup();
    let mut names = Some(Vec::new());
    let mut metadata = false;
    for path in info.target_queries.iter().chain(&info.target_assignments) {
        match (path.prefix, field_name(&path.path)) {
            (PathPrefix::Metadata, _) => metadata = true,
            (PathPrefix::Event, Some(name)) => names.iter_mut().for_each(|n| n.push(name.clone())),
            (PathPrefix::Event, None) => names = None,
        }
    }
    // `unnest` reads the row as a whole and only says so of its path.
    if text.text.contains("unnest") {
        names = None;
    }
    if let Some(names) = &mut names {
        names.sort();
        names.dedup();
    }
    let place_or_time = metadata || reads_place_or_time(&text.text);
    // "UTC" is always known; the default would be the time zone of the machine.
    let timezone = TimeZone::parse("UTC").unwrap_or_default();
    let flat =
        names.as_ref().and_then(|_| Flat::of(&info.target_queries, &info.target_assignments));
    let moves = flat.as_ref().and_then(|flat| Moves::of(&text.text, flat));
    let node = node.into();
    let compiled =
        Compiled { node, program, text, timezone, slots, names, reads, place_or_time, flat, moves };
    Ok((compiled, warnings))
}

impl Compiled {
    /// Runs the program on one row.
    pub(super) fn run(&self, row: &mut dyn Target, state: &mut RuntimeState) -> End {
        state.clear();
        let mut context = Context::new(row, state, &self.timezone);
        match self.program.resolve(&mut context) {
            Ok(_) | Err(ExpressionError::Return { .. }) => End::Done,
            Err(ExpressionError::Abort { .. }) => End::Aborted,
            Err(error) => End::Failed(self.error(&error)),
        }
    }

    fn error(&self, error: &ExpressionError) -> OperatorError {
        let range = match error {
            ExpressionError::Error { labels, .. } => {
                labels.first().map(|l| l.span.start()..l.span.end())
            }
            ExpressionError::Fallible { span } | ExpressionError::Missing { span, .. } => {
                Some(span.start()..span.end())
            }
            _ => None,
        };
        let span = self.text.locate(range.unwrap_or(0..0));
        let (line, column) = span.line_column();
        let place = format!("{}:{line}:{column}", span.file.path.display());
        OperatorError { reason: without_offsets(&error.to_string()), place: Some(place) }
    }
}

/// VRL names the bytes of the program, ` at (5:19)`, which read like a line and a column.
fn without_offsets(reason: &str) -> String {
    let mut parts = reason.split(" at (");
    let mut shown = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once(')') {
            Some((inside, rest)) if inside.bytes().all(|b| b.is_ascii_digit() || b == b':') => {
                shown += rest;
            }
            _ => shown = shown + " at (" + part,
        }
    }
    shown
}

/// The column name of a path: its leading fields; `None` for the whole row.
fn field_name(path: &OwnedValuePath) -> Option<String> {
    let fields: Vec<&str> = path
        .segments
        .iter()
        .map_while(|s| match s {
            OwnedSegment::Field(name) => Some(name.as_str()),
            OwnedSegment::Index(_) => None,
        })
        .collect();
    (!fields.is_empty()).then(|| fields.join("."))
}

/// The kind of a row of `edge`: a canonical column has its type or null, any other path may be
/// anything.
fn kind_of(edge: &Edge) -> Kind {
    let mut kind = Kind::object(Collection::any());
    for (name, data_type) in &edge.columns {
        let Some(data_type) = data_type else { continue };
        let mut path = OwnedValuePath::root();
        name.split('.').for_each(|part| path.push_field(part));
        let json = matches!(name.as_str(), "events" | "links" | "exemplars");
        let column = match data_type {
            DataType::Utf8 if json => Kind::array(Collection::any()),
            // The body of a log may be any JSON.
            DataType::Utf8 if name == "body" => Kind::json(),
            DataType::Utf8 => Kind::bytes(),
            DataType::Int64 => Kind::integer(),
            DataType::Float64 => Kind::float(),
            DataType::Boolean => Kind::boolean(),
            DataType::Timestamp(..) => Kind::timestamp(),
            DataType::Struct(_) => Kind::object(Collection::any()),
            _ => Kind::any(),
        };
        kind.insert(&path, column.or_null());
    }
    kind
}

/// `%tenant`, `%source`, `%received`, `%position`.
fn metadata_kind() -> Kind {
    let mut kind = Kind::object(Collection::any());
    let field = |name: &str| OwnedValuePath::root().with_field_appended(name);
    kind.insert(&field("tenant"), Kind::bytes());
    kind.insert(&field("source"), Kind::bytes());
    kind.insert(&field("received"), Kind::timestamp());
    kind.insert(&field("position"), Kind::integer());
    kind
}

/// VRL's diagnostics as ours, each pointing into the file.
fn diagnostics(list: &DiagnosticList, text: &Text) -> Vec<Diagnostic> {
    let mut all = Vec::new();
    for d in list.iter() {
        let mut out = match d.severity {
            Severity::Warning | Severity::Note => Diagnostic::warning("W086", d.message.clone()),
            Severity::Error | Severity::Bug => Diagnostic::error("W085", d.message.clone()),
        };
        let primary = d.labels.iter().find(|l| l.primary).or(d.labels.first());
        if let Some(label) = primary {
            out = out.at(&text.locate(label.span.start()..label.span.end()));
            if !label.message.is_empty() {
                out = out.label(label.message.clone());
            }
            if let Some(hint) = refused(text, label.span.start()..label.span.end()) {
                out = out.hint(hint);
            }
        } else {
            out = out.at(&text.locate(0..text.text.len()));
        }
        if out.hint.is_none() {
            let others = d.labels.iter().filter(|l| !l.primary && !l.message.is_empty());
            let others: Vec<&str> = others.map(|l| l.message.as_str()).collect();
            if !others.is_empty() {
                out = out.hint(others.join("; "));
            }
        }
        all.push(out);
    }
    all
}

/// Why a function that VRL has elsewhere is not there, or the nearest that is.
fn refused(text: &Text, range: std::ops::Range<usize>) -> Option<String> {
    let call = text.text.get(range)?;
    let name = call.split(['(', '!']).next()?.trim();
    if let Some((_, why)) = REFUSED.iter().find(|(refused, _)| *refused == name) {
        return Some(format!("`{name}` is left out: {why}"));
    }
    let functions = functions::all();
    let known: Vec<&str> = functions.iter().map(|f| f.identifier()).collect();
    if name.is_empty()
        || known.contains(&name)
        || !name.chars().all(|c| c == '_' || c.is_ascii_alphanumeric())
    {
        return None;
    }
    nearest(name, known).map(|near| format!("did you mean `{near}`?"))
}
