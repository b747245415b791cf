//! The part of a file that configures one component, with the place of each value.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::de::DeserializeOwned;

use super::check::{Checked, Checker, one_of};
use super::deserialize::from_table;
use super::environment::Environment;
use super::tree::{self, Table};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span, nearest};
use crate::edge::Edge;
use crate::lookup::Lookup;

/// Keys of a component's table that the engine reads itself.
pub(crate) const ENGINE_KEYS: [&str; 5] = ["type", "inputs", "on_error", "was", "backlog"];

/// A file that a configuration names (a program, a lookup table) is at most this long: it is kept
/// with every checkpoint.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;

/// A value with its place in the file. (`toml::Spanned` plus a JSON schema.)
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Bytes of the file.
    pub range: Range<usize>,
}

impl<T: JsonSchema> JsonSchema for Spanned<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }
    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }
    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// A program or expression as written, inline or in a file of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// The text.
    pub text: String,
    /// Where it stands: the text itself where it stands verbatim (`exact`), else the TOML value.
    pub span: Span,
    /// Whether byte `i` of `text` is byte `i` of `span`.
    pub exact: bool,
}

impl Text {
    /// The place of bytes `range` of the text.
    pub fn locate(&self, range: Range<usize>) -> Span {
        if self.exact { self.span.within(range) } else { self.span.clone() }
    }
}

/// The table of one component, without the keys that the engine itself reads (`type`, `inputs`,
/// `on_error`, `was`). `${NAME}` is replaced when it is read, except in programs and expressions:
/// the keys of [`super::VERBATIM_KEYS`] and fields marked
/// `#[schemars(extend("x-weir-verbatim" = true))]`.
#[derive(Clone, Debug)]
pub struct Section {
    /// Component id.
    pub id: String,
    /// The file it stands in.
    pub file: Arc<SourceText>,
    /// Its header, `[operators.id]`.
    pub header: Span,
    /// What it is, for messages: "operator `errors`".
    pub(crate) owner: String,
    /// Its `type`, for the hint to `weir describe`; empty if there is no such page.
    pub(crate) kind: String,
    /// The keys.
    pub(crate) table: Table,
    /// Where `${NAME}` looks; `None` if it is replaced already.
    pub(crate) environment: Option<Environment>,
    /// Syntax errors of a fragment given to [`Section::parse_for_tests`].
    pub(crate) broken: Diagnostics,
}

impl Section {
    /// The section of a TOML fragment (`every = "10s"`, ...), for unit tests of `plan` functions.
    /// The fragment stands for what is below the `[operators.id]` header; the engine's own keys
    /// may be there and are left out. Its syntax errors come out of [`Section::read`]. `${NAME}`
    /// finds no variable set.
    pub fn parse_for_tests(id: &str, fragment: &str) -> Self {
        let file = Arc::new(SourceText { path: "test.toml".into(), text: fragment.to_owned() });
        let (mut table, broken) = tree::parse(&file);
        let kind = table.get("type").and_then(|e| match &e.node.value {
            tree::Value::String(kind) => Some(kind.clone()),
            _ => None,
        });
        table.0.retain(|e| !ENGINE_KEYS.contains(&e.key.as_str()));
        Self {
            id: id.to_owned(),
            header: Span { file: file.clone(), range: 0..0 },
            file,
            owner: format!("component `{id}`"),
            kind: kind.unwrap_or_default(),
            table,
            environment: Some(Environment::Fixed(BTreeMap::new())),
            broken,
        }
    }

    /// The section as `C`: every unknown key, wrong type and missing key is reported, with the
    /// nearest right name. `C` derives `Deserialize` with `deny_unknown_fields`, and `JsonSchema`.
    ///
    /// # Errors
    /// All mistakes of this section.
    pub fn read<C: DeserializeOwned + JsonSchema>(&self) -> Result<C, Diagnostics> {
        match self.read_loosely() {
            (Some(value), wrong) if wrong.0.is_empty() => Ok(value),
            (_, wrong) => Err(wrong),
        }
    }

    /// As [`Section::read`], but with mistakes it still gives what can be made of the rest, so
    /// that what else is wrong can be found. Not to be run.
    pub fn read_loosely<C: DeserializeOwned + JsonSchema>(&self) -> (Option<C>, Diagnostics) {
        if !self.broken.0.is_empty() {
            return (None, self.broken.clone());
        }
        let Checked { mut table, mut wrong, usable, .. } = self.check(&schemars::schema_for!(C));
        if !usable {
            return (None, wrong);
        }
        let schema_wrong = wrong.0.len();
        // What the schema cannot say: types with a parser of their own. Each failure is noted and
        // its key left out, so that the next one shows too.
        loop {
            let error = match from_table::<C>(table.clone(), self.header.range.clone()) {
                Ok(value) => return (Some(value), wrong),
                Err(error) => error,
            };
            let range = error.range.unwrap_or_else(|| self.header.range.clone());
            let at = table
                .0
                .iter()
                .position(|e| e.node.range.start <= range.start && range.end <= e.node.range.end);
            if at.is_none() && !wrong.0.is_empty() {
                return (None, wrong); // a key that was left out is missing now
            }
            let span = Span { file: self.file.clone(), range };
            let key = at.map(|i| table.0.remove(i).key);
            // A value that stands for a wrong one is not wrong again.
            let told = wrong.0[..schema_wrong].iter().filter_map(|d| d.span.as_ref());
            if !told.clone().any(|s| s.overlaps(&span)) {
                let message = match key {
                    Some(key) => format!("{}, `{key}`: {}", self.owner, error.message),
                    None => format!("{}: {}", self.owner, error.message),
                };
                wrong.push(Diagnostic::error("W015", message).at(&span));
            }
            if at.is_none() {
                return (None, wrong);
            }
        }
    }

    /// What the schema finds wrong, and the table with `${NAME}` replaced.
    pub(crate) fn check(&self, schema: &Schema) -> Checked {
        Checker::new(self, schema.as_value()).run()
    }

    /// The place of a value.
    pub fn span<T>(&self, value: &Spanned<T>) -> Span {
        Span { file: self.file.clone(), range: value.range.clone() }
    }

    /// A text that stands inline.
    pub fn text<S: AsRef<str>>(&self, value: &Spanned<S>) -> Text {
        let text = value.value.as_ref().to_owned();
        match verbatim(&self.file.text, &value.range, &text) {
            Some(range) => {
                Text { text, span: Span { file: self.file.clone(), range }, exact: true }
            }
            None => Text { text, span: self.span(value), exact: false },
        }
    }

    /// A text that stands inline under the key `key` or in the file named by the key `file`:
    /// exactly one of the two.
    ///
    /// # Errors
    /// If none or both are given, or the file cannot be read.
    pub fn text_or_file(
        &self,
        key: &str,
        inline: Option<&Spanned<String>>,
        file: Option<&Spanned<String>>,
        scope: &Scope,
    ) -> Result<Text, Diagnostics> {
        match (inline, file) {
            (Some(inline), None) => Ok(self.text(inline)),
            (None, Some(path)) => {
                let file = scope.read_file(&path.value, &self.span(path))?;
                let text = file.text.clone();
                Ok(Text { span: Span { range: 0..text.len(), file }, text, exact: true })
            }
            (Some(inline), Some(file)) => {
                let message = format!("{} has both `{key}` and `file`", self.owner);
                let both = Diagnostic::error("W018", message)
                    .at(&self.span(file))
                    .label(format!("expected one of `{key}` and `file`"))
                    .related(&self.span(inline), "the text stands here");
                Err(both.into())
            }
            (None, None) => {
                let message = format!("{} needs `{key}` or `file`", self.owner);
                let mut none = Diagnostic::error("W018", message).at(&self.header);
                if !self.kind.is_empty() {
                    none = none.hint(describe_hint(&self.kind));
                }
                Err(none.into())
            }
        }
    }
}

/// The hint that leads to the reference page of a type.
pub(crate) fn describe_hint(kind: &str) -> String {
    format!("`weir describe {kind}` lists every field")
}

/// The bytes between the quotes at `range`, if `text` stands there as it is, without escapes.
fn verbatim(file: &str, range: &Range<usize>, text: &str) -> Option<Range<usize>> {
    let raw = file.get(range.clone())?;
    let quote = ["\"\"\"", "'''", "\"", "'"].into_iter().find(|q| raw.starts_with(q))?;
    let inner = raw.strip_prefix(quote)?.strip_suffix(quote)?;
    // A newline right after the opening quotes is not part of a multi-line text.
    let body = if quote.len() == 3 {
        inner.strip_prefix("\r\n").or_else(|| inner.strip_prefix('\n')).unwrap_or(inner)
    } else {
        inner
    };
    let start = range.start + quote.len() + (inner.len() - body.len());
    (body == text).then(|| start..start + body.len())
}

/// One input of the node being planned.
#[derive(Clone, Debug)]
pub struct Input {
    /// As written: `id` or `id.output`.
    pub name: String,
    /// What flows in.
    pub edge: Edge,
}

/// What planning may know besides the section: the node's inputs and the files it names.
#[derive(Debug, Default)]
pub struct Scope {
    /// The inputs, in order. Empty for sources.
    pub inputs: Vec<Input>,
    /// Folder that paths in the file are relative to.
    pub base: PathBuf,
    given: Option<Arc<BTreeMap<String, String>>>,
    lookups: Lookups,
    warnings: RefCell<Vec<Diagnostic>>,
    files: RefCell<Vec<Arc<SourceText>>>,
    looked_into: RefCell<BTreeSet<String>>,
}

/// The lookup tables of a file by id.
pub type Lookups = Arc<BTreeMap<String, Arc<Lookup>>>;

impl Scope {
    /// A scope with these inputs, whose relative paths start at `base`.
    pub fn new(inputs: Vec<Input>, base: PathBuf) -> Self {
        Self { inputs, base, ..Self::default() }
    }

    /// Takes files from `given` (by path as shown) instead of the disk.
    #[must_use]
    pub(crate) fn with_files(mut self, given: Option<Arc<BTreeMap<String, String>>>) -> Self {
        self.given = given;
        self
    }

    /// Finds these lookup tables.
    #[must_use]
    pub fn with_lookups(mut self, lookups: Lookups) -> Self {
        self.lookups = lookups;
        self
    }

    /// The lookup table `id` of this file. Its version becomes part of what a reload compares and
    /// of what a checkpoint names.
    ///
    /// # Errors
    /// If there is none, at `span`.
    pub fn lookup(&self, id: &str, span: &Span) -> Result<Arc<Lookup>, Diagnostics> {
        let Some(lookup) = self.lookups.get(id) else {
            let unknown = Diagnostic::error("W046", format!("there is no lookup `{id}`"));
            let known = self.lookups.keys().map(String::as_str);
            return Err(unknown
                .at(span)
                .label(match nearest(id, known.clone()) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None if self.lookups.is_empty() => "the file has no `[lookups.*]`".to_owned(),
                    None => format!("expected {}", one_of(known)),
                })
                .into());
        };
        self.looked_into.borrow_mut().insert(id.to_owned());
        Ok(lookup.clone())
    }

    /// All lookup tables of this file, for who finds out later which it needs: see
    /// [`Scope::lookup`].
    pub fn lookups(&self) -> &Lookups {
        &self.lookups
    }

    /// Ids of the tables that were looked into.
    pub(crate) fn take_looked_into(&self) -> BTreeSet<String> {
        self.looked_into.take()
    }

    /// Notes something that does not stop the file.
    pub fn warn(&self, warning: Diagnostic) {
        self.warnings.borrow_mut().push(warning);
    }

    /// Takes the warnings noted so far.
    pub fn take_warnings(&self) -> Vec<Diagnostic> {
        self.warnings.take()
    }

    /// Reads a file that the configuration names. It becomes part of what a reload compares and
    /// of what a checkpoint keeps.
    ///
    /// # Errors
    /// If it cannot be read, at `span`.
    pub fn read_file(&self, path: &str, span: &Span) -> Result<Arc<SourceText>, Diagnostics> {
        let path = self.base.join(path);
        let shown = path.display().to_string();
        let text = match &self.given {
            Some(given) => given.get(&shown).cloned().ok_or_else(|| "it was not kept".to_owned()),
            None => read_text(&path),
        };
        let text = text.map_err(|why| {
            Diagnostic::error("W002", format!("file `{shown}` cannot be read: {why}")).at(span)
        })?;
        if text.trim().is_empty() {
            return Err(emptied(&shown).at(span).into());
        }
        let file = Arc::new(SourceText { path, text });
        self.files.borrow_mut().push(file.clone());
        Ok(file)
    }

    /// The files read so far.
    pub fn take_files(&self) -> Vec<Arc<SourceText>> {
        self.files.take()
    }
}

/// A file without any text. Who saves in place empties the file first, and is no different then from
/// who wants nothing of it any more: that has to be said in another way.
pub fn emptied(file: &str) -> Diagnostic {
    let hint = "delete it if nothing of it shall run any more, or leave a comment in it";
    Diagnostic::error("W004", format!("file `{file}` is empty")).hint(hint)
}

/// The text of a file, or why there is none.
pub(crate) fn read_text(path: &Path) -> Result<String, String> {
    let why = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::NotFound => "no such file".to_owned(),
        std::io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
        _ => e.to_string().to_lowercase(),
    };
    let file = std::fs::File::open(path).map_err(why)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(why)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err("it is larger than 16 MiB".to_owned());
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        let start = good.iter().rposition(|b| *b == b'\n').map_or(0, |i| i + 1);
        let column = String::from_utf8_lossy(&good[start..]).chars().count() + 1;
        format!("it is not UTF-8 text, see line {line}, column {column}")
    })
}

#[cfg(test)]
mod tests;
