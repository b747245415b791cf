//! One pipeline file, read as far as its shape goes: which parts it has, what they are called,
//! what they read.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use super::check::{one_of, replaced};
use super::environment::Environment;
use super::section::{ENGINE_KEYS, Section};
use super::tree::{self, Entry, Node, Table, Value};
use crate::backlog::{self, Backlog, Policy};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span, nearest};
use crate::plan::{From, OnError};

/// Keys that can stand at the top of a pipeline file.
const TOP_KEYS: [&str; 9] =
    ["name", "from", "backlog", "sources", "lookups", "operators", "sinks", "alerts", "tests"];

/// Ids that the engine uses for what it adds.
pub(crate) const RESERVED_IDS: [&str; 2] = [ROUTER_ID, ERRORS_ID];
/// The implicit sink that takes transitions to the router.
pub(crate) const ROUTER_ID: &str = "router";
/// The implicit sink that takes unread `.errors`.
pub(crate) const ERRORS_ID: &str = "weir_errors";

/// A file as written.
#[derive(Debug)]
pub(crate) struct PipelineFile {
    pub(crate) text: Arc<SourceText>,
    /// `name`, else the file name without `.toml`.
    pub(crate) name: String,
    /// Where the name stands, else the start of the file.
    pub(crate) name_at: Span,
    pub(crate) from: From,
    pub(crate) backlog: Backlog,
    /// Sources, lookups, operators, sinks and alerts in the order of the file.
    pub(crate) parts: Vec<Part>,
    /// `[[tests]]`.
    pub(crate) tests: Vec<Section>,
    /// Variables used in the keys that the engine reads, and their values.
    pub(crate) used: BTreeMap<String, String>,
    /// Whether the file parsed whole, so that what is not in it is really not there.
    pub(crate) whole: bool,
}

/// What a part is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Group {
    Source,
    Lookup,
    Operator,
    Sink,
    Alert,
}

impl Group {
    const ALL: [(&'static str, Self); 5] = [
        ("sources", Self::Source),
        ("lookups", Self::Lookup),
        ("operators", Self::Operator),
        ("sinks", Self::Sink),
        ("alerts", Self::Alert),
    ];

    /// What people call it.
    pub(crate) fn what(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Lookup => "lookup",
            Self::Operator => "operator",
            Self::Sink => "sink",
            Self::Alert => "alert",
        }
    }

    /// Whether it is a node of a pipeline.
    pub(crate) fn is_node(self) -> bool {
        !matches!(self, Self::Source | Self::Lookup)
    }

    fn has(self, key: &str) -> bool {
        match key {
            "type" => self != Self::Alert,
            "inputs" => self.is_node(),
            "on_error" => matches!(self, Self::Operator | Self::Alert),
            "was" => self.is_node(),
            "backlog" => self == Self::Sink,
            _ => false,
        }
    }
}

/// One source, lookup, operator, sink or alert, with the keys that the engine reads.
#[derive(Debug)]
pub(crate) struct Part {
    pub(crate) group: Group,
    pub(crate) section: Section,
    /// `type` and its place; `None` for alerts, and where it is missing; empty where it is not
    /// even text.
    pub(crate) kind: Option<(String, Span)>,
    pub(crate) inputs: Vec<(String, Span)>,
    pub(crate) on_error: OnError,
    pub(crate) was: Option<Arc<str>>,
    pub(crate) backlog: backlog::SinkConfig,
}

/// The pipeline files of a folder, sorted: `*.toml` directly in it, without dotfiles and what
/// editors leave behind.
pub fn pipeline_files(folder: &Path) -> Vec<PathBuf> {
    list(folder).unwrap_or_default()
}

pub(crate) fn list(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if is_pipeline_file(&name.to_string_lossy()) && entry.path().is_file() {
            paths.push(entry.path());
        }
    }
    paths.sort();
    Ok(paths)
}

/// `~`, `.swp` and `4913` do not end in `.toml`; `#x.toml#` neither, but `.#x.toml` does.
fn is_pipeline_file(name: &str) -> bool {
    name.len() > ".toml".len() && name.ends_with(".toml") && !name.starts_with(['.', '#', '~'])
}

/// Reads a file: what there is of it, and everything that is wrong with its shape.
pub(crate) fn read(
    text: Arc<SourceText>,
    environment: &Environment,
) -> (PipelineFile, Diagnostics) {
    let (table, wrong) = tree::parse(&text);
    let stem = text.path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let start = Span { file: text.clone(), range: 0..0 };
    let mut reader = Reader {
        file: PipelineFile {
            name: stem,
            name_at: start,
            from: From::Now,
            backlog: Backlog::with(Policy::Refuse),
            parts: Vec::new(),
            tests: Vec::new(),
            used: BTreeMap::new(),
            whole: wrong.0.is_empty(),
            text: text.clone(),
        },
        environment,
        wrong,
    };
    for entry in table.0 {
        reader.top(entry);
    }
    (reader.file, reader.wrong)
}

struct Reader<'a> {
    file: PipelineFile,
    environment: &'a Environment,
    wrong: Diagnostics,
}

impl Reader<'_> {
    fn span(&self, range: &std::ops::Range<usize>) -> Span {
        Span { file: self.file.text.clone(), range: range.clone() }
    }

    fn error(&mut self, code: &'static str, message: String, at: &Span, label: String) {
        let error = Diagnostic::error(code, message).at(at);
        self.wrong.push(if label.is_empty() { error } else { error.label(label) });
    }

    fn top(&mut self, entry: Entry) {
        let at = self.span(&entry.at);
        let value_at = self.span(&entry.node.range);
        let group = Group::ALL.iter().find(|(name, _)| *name == entry.key).map(|(_, g)| *g);
        match (entry.key.as_str(), entry.node.value) {
            ("name", Value::String(name)) => {
                let Some(name) = self.replaced("the file", &name, &value_at) else { return };
                if name.is_empty() || name.contains(['/', '\\', '\0']) || name.len() > 200 {
                    let message = format!("`{name}` cannot be the name of a pipeline");
                    let label = "expected 1 to 200 characters without slashes".to_owned();
                    self.error("W020", message, &value_at, label);
                } else {
                    self.file.name = name;
                    self.file.name_at = value_at;
                }
            }
            ("from", Value::String(text) | Value::Datetime(text)) => {
                if let Some(text) = self.replaced("the file", &text, &value_at) {
                    self.from(&text, &value_at);
                }
            }
            ("backlog", Value::Table(table)) => {
                if let Some(config) = self.backlog::<backlog::PipelineConfig>("", table, at) {
                    self.file.backlog = config.resolve();
                }
            }
            ("tests", Value::Array(items)) => {
                for (i, item) in items.into_iter().enumerate() {
                    self.test(i, item);
                }
            }
            (_, Value::Table(parts)) if group.is_some() => {
                for part in parts.0 {
                    self.part(group.unwrap_or(Group::Sink), part);
                }
            }
            (key, value) if TOP_KEYS.contains(&key) => {
                let expected = match key {
                    "name" | "from" => "text in quotes".to_owned(),
                    "backlog" => "a table: `[backlog]`".to_owned(),
                    "tests" => "a list of tables: `[[tests]]`".to_owned(),
                    _ => format!("tables: `[{key}.id]`"),
                };
                let message = format!("`{key}` is {}", value.what());
                self.error("W012", message, &value_at, format!("expected {expected}"));
            }
            (key, _) => {
                let label = match nearest(key, TOP_KEYS) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("expected {}", one_of(TOP_KEYS)),
                };
                let message = format!("a pipeline file has no `{key}`");
                self.error("W003", message, &at, label);
            }
        }
    }

    /// A text with `${NAME}` replaced, unless that goes wrong.
    fn replaced(&mut self, owner: &str, text: &str, at: &Span) -> Option<String> {
        let used = &mut self.file.used;
        self.wrong.ok(replaced(text, self.environment, used, owner, at))
    }

    fn from(&mut self, text: &str, at: &Span) {
        self.file.from = match text {
            "now" => From::Now,
            "oldest" => From::Oldest,
            time => match time.parse::<jiff::Timestamp>() {
                Ok(time) => From::Time(i64::try_from(time.as_nanosecond()).unwrap_or(i64::MAX)),
                Err(_) => {
                    let message = format!("`from` cannot be `{text}`");
                    let label =
                        "expected `now`, `oldest` or a time such as `2026-01-31T12:00:00Z`".into();
                    self.error("W015", message, at, label);
                    From::Now
                }
            },
        };
    }

    /// The `backlog` of the file or of `owner`.
    fn backlog<C: DeserializeOwned + JsonSchema>(
        &mut self,
        owner: &str,
        table: Table,
        at: Span,
    ) -> Option<C> {
        let owner =
            if owner.is_empty() { "`backlog`".into() } else { format!("{owner}, `backlog`") };
        let section = self.section("backlog".to_owned(), owner, String::new(), at, table);
        let read = section.read();
        self.wrong.ok(read)
    }

    fn test(&mut self, index: usize, item: Node) {
        let header = self.span(&item.range);
        let Value::Table(table) = item.value else {
            let message = format!("test {} is {}", index + 1, item.value.what());
            self.error("W012", message, &header, "expected a table: `[[tests]]`".into());
            return;
        };
        let name = match table.get("name").map(|e| &e.node.value) {
            Some(Value::String(name)) => name.clone(),
            _ => (index + 1).to_string(),
        };
        let owner = format!("test `{name}`");
        self.file.tests.push(self.section(name, owner, String::new(), header, table));
    }

    fn section(
        &self,
        id: String,
        owner: String,
        kind: String,
        header: Span,
        table: Table,
    ) -> Section {
        Section {
            id,
            file: self.file.text.clone(),
            header,
            owner,
            kind,
            table,
            environment: Some(self.environment.clone()),
            broken: Diagnostics::default(),
        }
    }

    fn part(&mut self, group: Group, entry: Entry) {
        let what = group.what();
        let owner = format!("{what} `{}`", entry.key);
        let key_at = self.span(&entry.at);
        let header =
            if entry.node.range.is_empty() { key_at.clone() } else { self.span(&entry.node.range) };
        self.id(&owner, &entry.key, &key_at);
        let Value::Table(mut table) = entry.node.value else {
            let message = format!("{owner} is {}", entry.node.value.what());
            self.error("W012", message, &header, format!("expected a table: `[{what}s.id]`"));
            return;
        };
        let mut engine = |key: &str| {
            if group.has(key) && ENGINE_KEYS.contains(&key) { table.take(key) } else { None }
        };
        let (kind, inputs) = (engine("type"), engine("inputs"));
        let (on_error, was, backlog) = (engine("on_error"), engine("was"), engine("backlog"));
        let kind = kind.map(|e| {
            let at = self.span(&e.node.range);
            self.text(&owner, e).unwrap_or((String::new(), at))
        });
        let on_error = on_error.and_then(|e| self.text(&owner, e));
        let on_error = match on_error.as_ref().map(|(text, _)| text.as_str()) {
            None | Some("reject") => OnError::Reject,
            Some("keep") => OnError::Keep,
            Some(other) => {
                let message = format!("{owner}: `on_error` cannot be `{other}`");
                let at = on_error.as_ref().map_or(&header, |(_, at)| at).clone();
                self.error("W015", message, &at, "expected `reject` or `keep`".into());
                OnError::Reject
            }
        };
        let was = was.and_then(|e| self.text(&owner, e)).map(|(was, at)| {
            self.id(&owner, &was, &at);
            was.into()
        });
        let backlog = backlog.and_then(|e| {
            let at = self.span(&e.node.range);
            let Value::Table(table) = e.node.value else {
                let message = format!("{owner}: `backlog` is {}", e.node.value.what());
                let label = "expected `{ limit = \"20%\", policy = \"skip\" }`".to_owned();
                self.error("W012", message, &at, label);
                return None;
            };
            self.backlog(&owner, table, at)
        });
        let backlog = backlog.unwrap_or_default();
        let inputs = match inputs {
            Some(entry) => self.inputs(&owner, entry),
            None => {
                if group.is_node() {
                    let message = format!("{owner} needs `inputs`");
                    self.error("W013", message, &header, String::new());
                }
                Vec::new()
            }
        };
        let kind_name = kind.as_ref().map(|(k, _)| k.clone()).unwrap_or_default();
        let section = self.section(entry.key, owner, kind_name, header, table);
        self.file.parts.push(Part { group, section, kind, inputs, on_error, was, backlog });
    }

    fn id(&mut self, owner: &str, id: &str, at: &Span) {
        let mut chars = id.chars();
        let good = chars.next().is_some_and(|c| c.is_ascii_lowercase())
            && chars.all(|c| c == '_' || c.is_ascii_lowercase() || c.is_ascii_digit());
        if RESERVED_IDS.contains(&id) {
            let message = format!("{owner}: the id `{id}` is taken by the engine");
            self.error("W020", message, at, String::new());
        } else if !good {
            let message = format!("{owner}: `{id}` cannot be an id");
            let label = "expected `a` to `z`, then `a` to `z`, `0` to `9` and `_`".into();
            self.error("W020", message, at, label);
        }
    }

    fn text(&mut self, owner: &str, entry: Entry) -> Option<(String, Span)> {
        let at = self.span(&entry.node.range);
        match entry.node.value {
            Value::String(text) => Some((self.replaced(owner, &text, &at)?, at)),
            other => {
                let message = format!("{owner}: `{}` is {}", entry.key, other.what());
                self.error("W012", message, &at, "expected text in quotes".into());
                None
            }
        }
    }

    fn inputs(&mut self, owner: &str, entry: Entry) -> Vec<(String, Span)> {
        let at = self.span(&entry.node.range);
        let Value::Array(items) = entry.node.value else {
            let message = format!("{owner}: `inputs` is {}", entry.node.value.what());
            let label = "expected a list such as `[\"otlp.logs\"]`".into();
            self.error("W012", message, &at, label);
            return Vec::new();
        };
        if items.is_empty() {
            self.error("W013", format!("{owner} reads nothing"), &at, "expected an input".into());
        }
        let mut inputs: Vec<(String, Span)> = Vec::new();
        for item in items {
            let at = self.span(&item.range);
            let Value::String(name) = item.value else {
                let message = format!("{owner}: an input is {}", item.value.what());
                self.error("W012", message, &at, "expected `id` or `id.output` in quotes".into());
                continue;
            };
            let Some(name) = self.replaced(owner, &name, &at) else { continue };
            if name.contains(['*', '?', '[']) {
                let message = format!("{owner}: input `{name}` is a pattern");
                let label = "inputs are named one by one: `id` or `id.output`".into();
                self.error("W025", message, &at, label);
            } else if inputs.iter().any(|(n, _)| *n == name) {
                let message = format!("{owner} reads `{name}` twice");
                self.error("W025", message, &at, String::new());
            } else {
                inputs.push((name, at));
            }
        }
        inputs
    }
}
