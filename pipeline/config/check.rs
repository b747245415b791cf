//! Holds a table against the JSON schema of what it should be: all mistakes at once, each with
//! its place and the nearest right name. Replaces `${NAME}` on the way.
//!
//! It knows the part of JSON schema that `schemars` writes for configuration types, no more: what
//! it does not know it lets pass, and the type's own `Deserialize` decides.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value as Json;

use super::environment::{Environment, interpolate};
use super::section::{Section, describe_hint};
use super::tree::{Entry, Node, Table, Value};
use super::types::{ByteSize, DURATION_EXPECTED, Duration, SECRET_EXPECTED, SIZE_EXPECTED, Secret};
use crate::diagnostic::{Diagnostic, Diagnostics, SourceText, Span, nearest};

/// Keys whose texts are programs or expressions wherever they stand, so that a `$` in them is
/// theirs. Other fields say so in their schema: `x-weir-verbatim`.
pub const VERBATIM_KEYS: [&str; 9] =
    ["source", "sql", "where", "when", "select", "having", "aggregate", "query", "keep_when"];

/// What became of a table.
pub(crate) struct Checked {
    /// With `${NAME}` replaced. Optional keys that are wrong are left out, needed ones have any
    /// value that fits, so that planning it can show what else is wrong.
    pub(crate) table: Table,
    /// What is wrong.
    pub(crate) wrong: Diagnostics,
    /// Whether there is such a table.
    pub(crate) usable: bool,
    /// Whether it says something that its author did not.
    pub(crate) guessed: bool,
    /// Variables used, and their values.
    pub(crate) used: BTreeMap<String, String>,
    /// Bytes of the file that hold a secret in clear.
    pub(crate) secrets: Vec<Range<usize>>,
}

pub(crate) struct Checker<'a> {
    section: &'a Section,
    root: &'a Json,
    wrong: Diagnostics,
    usable: bool,
    guessed: bool,
    used: BTreeMap<String, String>,
    secrets: Vec<Range<usize>>,
}

impl<'a> Checker<'a> {
    pub(crate) fn new(section: &'a Section, root: &'a Json) -> Self {
        Self {
            section,
            root,
            wrong: Diagnostics::default(),
            usable: true,
            guessed: false,
            used: BTreeMap::new(),
            secrets: Vec::new(),
        }
    }

    pub(crate) fn run(mut self) -> Checked {
        let mut table = self.section.table.clone();
        let header = self.section.header.range.clone();
        self.table(&mut table, self.root, "", &header, false);
        self.wrong.0.sort_by_key(|d| d.span.as_ref().map(|s| s.range.start));
        redact(&mut self.wrong, &self.section.file, &self.secrets);
        let Self { wrong, usable, guessed, used, secrets, .. } = self;
        Checked { table, wrong, usable, guessed, used, secrets }
    }

    fn span(&self, range: &Range<usize>) -> Span {
        Span { file: self.section.file.clone(), range: range.clone() }
    }

    fn push(&mut self, diagnostic: Diagnostic) {
        self.wrong.push(diagnostic);
    }

    /// A branch tried on a copy.
    fn try_branch(&self, node: &Node, schema: &'a Json, path: &str, verbatim: bool) -> Self {
        let mut trial = Self::new(self.section, self.root);
        trial.node(&mut node.clone(), schema, path, verbatim);
        trial
    }

    fn resolve(&self, mut schema: &'a Json) -> &'a Json {
        // Ends: a chain of references is as long as there are definitions, unless it is a circle,
        // which schemars does not write; the bound is for the case that it does.
        for _ in 0..16 {
            if let Some(target) = schema.get("$ref").and_then(Json::as_str) {
                let Some(found) = target.strip_prefix('#').and_then(|p| self.root.pointer(p))
                else {
                    return schema;
                };
                schema = found;
            } else if let Some([only]) =
                schema.get("allOf").and_then(Json::as_array).map(Vec::as_slice)
            {
                schema = only;
            } else if let [only] = branches(schema).as_slice() {
                schema = only;
            } else {
                return schema;
            }
        }
        schema
    }

    fn table(
        &mut self,
        table: &mut Table,
        schema: &'a Json,
        path: &str,
        place: &Range<usize>,
        verbatim: bool,
    ) {
        let empty = serde_json::Map::new();
        let properties = schema.get("properties").and_then(Json::as_object);
        let additional = schema.get("additionalProperties").filter(|a| **a != Json::Bool(false));
        let known = properties.unwrap_or(&empty);
        let field = |key: &str| properties.and_then(|p| p.get(key));
        let mut entries = std::mem::take(&mut table.0);
        let mut present: Vec<String> = entries.iter().map(|e| e.key.clone()).collect();
        for entry in &mut entries {
            if properties.is_none() || known.contains_key(&entry.key) || additional.is_some() {
                continue;
            }
            let near = nearest(&entry.key, known.keys().map(String::as_str));
            let near_schema = near.and_then(field);
            if secret_like(&entry.key) || near_schema.is_some_and(|s| self.is_secret(s)) {
                self.secrets.push(entry.node.range.clone());
            }
            self.unknown(path, &entry.key, &entry.at, near, known);
            self.guessed |= near.is_some();
            // It is taken for what it was meant to be, so that what is wrong in it shows too.
            if let Some(near) = near.filter(|n| !present.iter().any(|p| p == n)) {
                near.clone_into(&mut entry.key);
                present.push(near.to_owned());
            }
        }
        for mut entry in entries {
            let inner = join(path, &entry.key);
            let raw = verbatim || VERBATIM_KEYS.contains(&entry.key.as_str());
            let stands = match field(&entry.key).or(additional) {
                Some(schema) => {
                    let stands = self.node(&mut entry.node, schema, &inner, raw);
                    self.guessed |= !stands;
                    stands
                }
                None => properties.is_none(), // any table will do
            };
            if stands {
                table.0.push(entry);
            }
        }
        let required = schema.get("required").and_then(Json::as_array);
        for key in required.into_iter().flatten().filter_map(Json::as_str) {
            if table.get(key).is_some() {
                continue;
            }
            if !present.iter().any(|p| p == key) {
                self.missing(path, key, place);
            }
            self.guessed = true;
            match field(key).and_then(|s| self.placeholder(s, 0)) {
                Some(value) => {
                    let node = Node { value, range: place.clone() };
                    table.0.push(Entry { key: key.to_owned(), at: place.clone(), node });
                }
                None => self.usable = false,
            }
        }
    }

    /// Any value that the schema takes, to stand for one that is wrong or missing.
    fn placeholder(&self, schema: &'a Json, depth: usize) -> Option<Value> {
        let schema = self.resolve(schema);
        if let Some(allowed) = allowed(schema) {
            return allowed.into_iter().next().map(Value::String);
        }
        let text = match schema.get("format").and_then(Json::as_str) {
            Some("weir-duration") => "1s",
            Some("weir-size") => "1B",
            Some("weir-secret") => "env:X",
            _ => "x",
        };
        Some(match *types(schema).first()? {
            "string" => Value::String(text.to_owned()),
            "integer" => Value::Integer(schema.get("minimum").and_then(Json::as_i64).unwrap_or(1)),
            "number" => Value::Float(1.0),
            "boolean" => Value::Boolean(false),
            "array" => Value::Array(Vec::new()),
            "object" if depth < 4 => {
                let mut table = Table::default();
                let required = schema.get("required").and_then(Json::as_array);
                for key in required.into_iter().flatten().filter_map(Json::as_str) {
                    let value = self.placeholder(schema.get("properties")?.get(key)?, depth + 1)?;
                    let node = Node { value, range: 0..0 };
                    table.0.push(Entry { key: key.to_owned(), at: 0..0, node });
                }
                Value::Table(table)
            }
            _ => return None,
        })
    }

    fn unknown(
        &mut self,
        path: &str,
        key: &str,
        at: &Range<usize>,
        near: Option<&str>,
        known: &serde_json::Map<String, Json>,
    ) {
        let owner = &self.section.owner;
        let message = if path.is_empty() {
            format!("{owner} has no field `{key}`")
        } else {
            format!("{owner}: `{path}` has no field `{key}`")
        };
        let mut unknown = Diagnostic::error("W014", message).at(&self.span(at));
        if let Some(near) = near {
            unknown = unknown.label(format!("did you mean `{near}`?"));
        } else if !known.is_empty() && known.len() <= 8 {
            // The order of a JSON object depends on how `serde_json` is built.
            let names: BTreeSet<&String> = known.keys().collect();
            unknown = unknown.label(format!("expected {}", one_of(names)));
        } else if known.is_empty() {
            unknown = unknown.label("it takes none");
        }
        let unknown = self.with_hint(unknown);
        self.push(unknown);
    }

    fn missing(&mut self, path: &str, key: &str, place: &Range<usize>) {
        let owner = &self.section.owner;
        let message = if path.is_empty() {
            format!("{owner} needs `{key}`")
        } else {
            format!("{owner}: `{path}` needs `{key}`")
        };
        let missing = Diagnostic::error("W013", message).at(&self.span(place));
        let missing = self.with_hint(missing);
        self.push(missing);
    }

    fn with_hint(&self, diagnostic: Diagnostic) -> Diagnostic {
        if self.section.kind.is_empty() {
            diagnostic
        } else {
            diagnostic.hint(describe_hint(&self.section.kind))
        }
    }

    /// Whether it can stand: it is right, or only parts of it were wrong and are left out or
    /// replaced. What was wrong is noted.
    fn node(&mut self, node: &mut Node, schema: &'a Json, path: &str, verbatim: bool) -> bool {
        let verbatim = verbatim || schema.get("x-weir-verbatim") == Some(&Json::Bool(true));
        let schema = self.resolve(schema);
        let verbatim = verbatim || schema.get("x-weir-verbatim") == Some(&Json::Bool(true));
        let choices = branches(schema);
        if !choices.is_empty() {
            return self.choose(node, &choices, schema, path, verbatim);
        }
        let types = types(schema);
        if !types.is_empty() && !types.iter().any(|t| fits(t, &node.value)) {
            return self.wrong_type(node, schema, path);
        }
        match &mut node.value {
            Value::String(text) => {
                if !verbatim && !self.replace(text, &node.range) {
                    return false;
                }
                let listed = allowed(schema)
                    .is_none_or(|allowed| self.one_of(text, &allowed, &node.range, path));
                let text = text.clone();
                listed & self.format(&text, schema, &node.range, path)
            }
            Value::Integer(n) => {
                let n = *n;
                self.range(n, schema, &node.range, path)
            }
            Value::Array(items) => {
                if let Some(item) = schema.get("items") {
                    let mut index = 0..;
                    items.retain_mut(|n| {
                        let i = index.next().unwrap_or_default();
                        let stands = self.node(n, item, &format!("{path}[{i}]"), verbatim);
                        self.guessed |= !stands;
                        stands
                    });
                }
                true
            }
            Value::Table(table) => {
                let range = node.range.clone();
                self.table(table, schema, path, &range, verbatim);
                true
            }
            Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => true,
        }
    }

    /// Replaces `${NAME}`; whether it could.
    fn replace(&mut self, text: &mut String, range: &Range<usize>) -> bool {
        let Some(environment) = &self.section.environment else { return true };
        let at = self.span(range);
        match replaced(text, environment, &mut self.used, &self.section.owner, &at) {
            Ok(new) => {
                *text = new;
                true
            }
            Err(bad) => {
                self.wrong.0.extend(bad.0);
                false
            }
        }
    }

    fn choose(
        &mut self,
        node: &mut Node,
        choices: &[&'a Json],
        schema: &'a Json,
        path: &str,
        verbatim: bool,
    ) -> bool {
        if let (Value::String(text), Some(allowed)) = (&mut node.value, allowed(schema)) {
            if !verbatim && !self.replace(text, &node.range) {
                return false;
            }
            let text = text.clone();
            return self.one_of(&text, &allowed, &node.range, path);
        }
        let choices: Vec<&'a Json> = choices.iter().map(|c| self.resolve(c)).collect();
        let fitting: Vec<&'a Json> = choices
            .iter()
            .copied()
            .filter(|c| {
                let types = types(c);
                types.is_empty() || types.iter().any(|t| fits(t, &node.value))
            })
            .collect();
        let tagged: Vec<&'a Json> = match &node.value {
            Value::Table(table) => fitting.iter().copied().filter(|c| tag_fits(c, table)).collect(),
            _ => Vec::new(),
        };
        let candidates = if tagged.is_empty() { fitting } else { tagged };
        match candidates.as_slice() {
            [] => self.wrong_type(node, schema, path),
            [only] => self.node(node, only, path, verbatim),
            several => {
                let good = several
                    .iter()
                    .find(|c| self.try_branch(node, c, path, verbatim).wrong.0.is_empty());
                if let Some(good) = good {
                    return self.node(node, good, path, verbatim);
                }
                if let (Value::Table(table), Some(names)) = (&node.value, externally(several)) {
                    return self.wrong_variant(table, &names, &node.range, path);
                }
                // The one that comes nearest.
                let least = several
                    .iter()
                    .min_by_key(|c| self.try_branch(node, c, path, verbatim).wrong.0.len());
                least.is_some_and(|c| self.node(node, c, path, verbatim))
            }
        }
    }

    fn wrong_variant(
        &mut self,
        table: &Table,
        names: &[String],
        range: &Range<usize>,
        path: &str,
    ) -> bool {
        let known = serde_json::Map::from_iter(names.iter().map(|n| (n.clone(), Json::Null)));
        match table.0.first() {
            Some(entry) => {
                let near = nearest(&entry.key, names.iter().map(String::as_str));
                self.unknown(path, &entry.key, &entry.at, near, &known);
            }
            None => {
                let message = format!("{}: `{path}` is empty", self.section.owner);
                let empty = Diagnostic::error("W013", message)
                    .at(&self.span(range))
                    .label(format!("expected {}", one_of(names)));
                self.push(empty);
            }
        }
        false
    }

    fn wrong_type(&mut self, node: &Node, schema: &'a Json, path: &str) -> bool {
        if self.is_secret(schema) {
            self.secrets.push(node.range.clone());
        }
        let expected = self.expected(schema, 0);
        let message = format!("{}: `{path}` is {}", self.section.owner, node.value.what());
        let wrong = Diagnostic::error("W012", message)
            .at(&self.span(&node.range))
            .label(format!("expected {expected}"));
        self.push(wrong);
        false
    }

    fn one_of(&mut self, text: &str, allowed: &[String], range: &Range<usize>, path: &str) -> bool {
        if allowed.iter().any(|a| a == text) {
            return true;
        }
        let message = format!("{}: `{path}` cannot be `{text}`", self.section.owner);
        let label = match nearest(text, allowed.iter().map(String::as_str)) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("expected {}", one_of(allowed)),
        };
        let wrong = Diagnostic::error("W015", message).at(&self.span(range)).label(label);
        self.push(wrong);
        false
    }

    fn format(&mut self, text: &str, schema: &Json, range: &Range<usize>, path: &str) -> bool {
        let owner = &self.section.owner;
        let (code, problem, label) = match schema.get("format").and_then(Json::as_str) {
            Some("weir-duration") => match text.parse::<Duration>() {
                Ok(_) => return true,
                Err(e) => ("W015", first_part(&e), DURATION_EXPECTED),
            },
            Some("weir-size") => match text.parse::<ByteSize>() {
                Ok(_) => return true,
                Err(e) => ("W015", first_part(&e), SIZE_EXPECTED),
            },
            Some("weir-secret") => {
                if Secret::parse(text).is_ok() {
                    return true;
                }
                self.secrets.push(range.clone());
                ("W019", "not a reference to a secret".to_owned(), SECRET_EXPECTED)
            }
            Some("weir-header") => {
                if Secret::parse(text).is_err() {
                    self.secrets.push(range.clone());
                }
                return true;
            }
            _ => return true,
        };
        let wrong = Diagnostic::error(code, format!("{owner}: `{path}`: {problem}"))
            .at(&self.span(range))
            .label(format!("expected {label}"));
        let wrong = if code == "W019" {
            wrong.hint("a secret never stands in the file itself: put it into a variable or a file")
        } else {
            wrong
        };
        self.push(wrong);
        false
    }

    fn range(&mut self, n: i64, schema: &Json, range: &Range<usize>, path: &str) -> bool {
        let bound = |key| schema.get(key).and_then(Json::as_i64);
        let (low, high) = (bound("minimum"), bound("maximum"));
        if low.is_none_or(|l| l <= n) && high.is_none_or(|h| n <= h) {
            return true;
        }
        let expected = match (low, high) {
            (Some(low), Some(high)) => format!("expected {low} to {high}"),
            (Some(low), None) => format!("expected {low} or more"),
            (None, high) => format!("expected at most {}", high.unwrap_or(i64::MAX)),
        };
        let message = format!("{}: `{path}` cannot be `{n}`", self.section.owner);
        let wrong = Diagnostic::error("W015", message).at(&self.span(range)).label(expected);
        self.push(wrong);
        false
    }

    fn is_secret(&self, schema: &'a Json) -> bool {
        let schema = self.resolve(schema);
        let inner = schema.get("items").map_or(schema, |i| self.resolve(i));
        matches!(inner.get("format").and_then(Json::as_str), Some("weir-secret" | "weir-header"))
    }

    fn expected(&self, schema: &'a Json, depth: usize) -> String {
        let schema = self.resolve(schema);
        if let Some(allowed) = allowed(schema) {
            return one_of(&allowed);
        }
        match schema.get("format").and_then(Json::as_str) {
            Some("weir-duration") => return DURATION_EXPECTED.into(),
            Some("weir-size") => return SIZE_EXPECTED.into(),
            Some("weir-secret") => return SECRET_EXPECTED.into(),
            _ => {}
        }
        let choices = branches(schema);
        if !choices.is_empty() && depth < 4 {
            let mut words: Vec<String> =
                choices.iter().map(|c| self.expected(c, depth + 1)).collect();
            words.dedup();
            return words.join(" or ");
        }
        let words: Vec<String> = types(schema)
            .into_iter()
            .map(|t| match t {
                "string" => "text in quotes".to_owned(),
                "integer" => "a whole number".to_owned(),
                "number" => "a number".to_owned(),
                "boolean" => "`true` or `false`".to_owned(),
                "array" => match schema.get("items").filter(|_| depth < 4) {
                    Some(items) => format!("a list, each {}", self.expected(items, depth + 1)),
                    None => "a list".to_owned(),
                },
                "object" => "a table".to_owned(),
                other => other.to_owned(),
            })
            .collect();
        if words.is_empty() { "something else".to_owned() } else { words.join(" or ") }
    }
}

/// A text with `${NAME}` replaced; `at` is where it stands.
pub(crate) fn replaced(
    text: &str,
    environment: &Environment,
    used: &mut BTreeMap<String, String>,
    owner: &str,
    at: &Span,
) -> Result<String, Diagnostics> {
    interpolate(text, environment, used).map_err(|bad| {
        let said = bad.into_iter().map(|b| {
            let wanted = &text[b.range];
            let raw = at.file.text.get(at.range.clone()).unwrap_or_default();
            let at = match raw.find(wanted) {
                Some(i) => at.within(i..i + wanted.len()),
                None => at.clone(),
            };
            let code = if b.unset { "W016" } else { "W017" };
            Diagnostic::error(code, format!("{owner}: {}", b.message)).at(&at).hint(b.hint)
        });
        Diagnostics(said.collect())
    })
}

/// The part of a parser's message before what it expected, which the label says.
fn first_part(message: &str) -> String {
    message.split(", expected").next().unwrap_or_default().to_owned()
}

fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

/// `a`, `b` or `c`.
pub(crate) fn one_of<S: AsRef<str>>(names: impl IntoIterator<Item = S>) -> String {
    let names: Vec<String> = names.into_iter().map(|n| format!("`{}`", n.as_ref())).collect();
    match names.as_slice() {
        [] => "nothing".to_owned(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Whether a key's name says that its value is a secret.
fn secret_like(key: &str) -> bool {
    let lower = key.to_ascii_lowercase();
    ["token", "password", "secret", "key", "bearer"].iter().any(|w| lower.contains(w))
}

/// The alternatives of a schema, without `null`.
fn branches(schema: &Json) -> Vec<&Json> {
    let all = schema.get("anyOf").or_else(|| schema.get("oneOf")).and_then(Json::as_array);
    all.into_iter()
        .flatten()
        .filter(|b| b.get("type").and_then(Json::as_str) != Some("null"))
        .collect()
}

/// The JSON types that a schema names, without `null`.
fn types(schema: &Json) -> Vec<&str> {
    match schema.get("type") {
        Some(Json::String(one)) => vec![one.as_str()],
        Some(Json::Array(many)) => {
            many.iter().filter_map(Json::as_str).filter(|t| *t != "null").collect()
        }
        _ if schema.get("properties").is_some() => vec!["object"],
        _ => Vec::new(),
    }
}

fn fits(wanted: &str, value: &Value) -> bool {
    match value {
        Value::String(_) => wanted == "string",
        Value::Integer(_) => matches!(wanted, "integer" | "number"),
        Value::Float(_) => wanted == "number",
        Value::Boolean(_) => wanted == "boolean",
        Value::Datetime(_) => false,
        Value::Array(_) => wanted == "array",
        Value::Table(_) => wanted == "object",
    }
}

/// The texts that a schema allows, if it lists them.
fn allowed(schema: &Json) -> Option<Vec<String>> {
    let text = |v: &Json| v.as_str().map(str::to_owned);
    if let Some(one) = schema.get("const") {
        return Some(vec![text(one)?]);
    }
    if let Some(many) = schema.get("enum").and_then(Json::as_array) {
        return Some(many.iter().filter_map(text).collect());
    }
    let choices = branches(schema);
    let of_each: Option<Vec<Vec<String>>> = choices.iter().map(|c| allowed(c)).collect();
    of_each.filter(|lists| !lists.is_empty()).map(|lists| lists.concat())
}

/// Whether a table names the variant that this branch describes: by the only key of an externally
/// tagged variant, or by the constant of an internally tagged one.
fn tag_fits(branch: &Json, table: &Table) -> bool {
    let Some(properties) = branch.get("properties").and_then(Json::as_object) else { return false };
    let constant = properties.iter().find_map(|(k, s)| Some((k, s.get("const")?.as_str()?)));
    match constant {
        Some((key, tag)) => {
            table.get(key).is_some_and(|e| e.node.value == Value::String(tag.to_owned()))
        }
        None => properties.len() == 1 && properties.keys().all(|k| table.get(k).is_some()),
    }
}

/// The names of externally tagged variants, if these branches are such.
fn externally(branches: &[&Json]) -> Option<Vec<String>> {
    let name = |b: &&Json| {
        let properties = b.get("properties")?.as_object()?;
        (properties.len() == 1).then(|| properties.keys().next().cloned())?
    };
    branches.iter().map(name).collect()
}

/// Replaces bytes of `file` by asterisks wherever the diagnostics would show them.
pub(crate) fn redact(wrong: &mut Diagnostics, file: &Arc<SourceText>, secrets: &[Range<usize>]) {
    if secrets.is_empty() {
        return;
    }
    let mut text: Vec<char> = Vec::with_capacity(file.text.len());
    for (i, c) in file.text.char_indices() {
        // Quotes and brackets stay, so that the line still reads as TOML.
        let shape = matches!(c, '\n' | '"' | '\'' | '[' | ']' | '{' | '}');
        let hidden = !shape && secrets.iter().any(|r| r.contains(&i));
        // As many bytes as before, so that places stay right.
        if hidden {
            text.extend(std::iter::repeat_n('*', c.len_utf8()));
        } else {
            text.push(c);
        }
    }
    let clean = Arc::new(SourceText { path: file.path.clone(), text: text.into_iter().collect() });
    let swap = |span: &mut Span| {
        if span.file.path == file.path && span.file.text.len() == clean.text.len() {
            span.file = clean.clone();
        }
    };
    for diagnostic in &mut wrong.0 {
        let spans = diagnostic.span.iter_mut();
        spans.chain(diagnostic.related.iter_mut().map(|(span, _)| span)).for_each(swap);
    }
}
