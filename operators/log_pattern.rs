//! `log_pattern` operator: finds the pattern of each log line.
//!
//! ```toml
//! [operators.patterns]
//! type = "log_pattern"
//! inputs = ["otlp.logs"]
//! ```
//!
//! Every row passes, with columns of its pattern:
//!
//! - `pattern.id`: 16 hexadecimal digits, the same for all lines of the pattern.
//! - `pattern.template`: their wording, with `<*>` for what varies. It may become wider later.
//! - `pattern.parameters`: what this line has there, a JSON array in order. At most 256 bytes of
//!   each; without with `parameters = false`.
//! - `pattern.new`: true on the row that founds the pattern.
//! - `pattern.changed`: true on the row that makes the template wider.
//!
//! `field` names the text column that is looked at, by default `body`. Rows without text in it
//! have no pattern, and these columns are NULL. Only the first line of a text is wording, and of
//! that the first 4 KiB; the rest is one parameter.
//!
//! Numbers, times, durations and sizes, addresses, paths, quoted texts, hexadecimal numbers, words
//! with digits, lists, and what stands behind `=` always vary. In JSON the keys are wording and the
//! values vary, but for `msg`, `message`, `event`, `error`, `err` and `log`, which are read as text;
//! so are these keys in `key="value"`. Where names stand (`user alice`, `from mallory`) the word
//! is part of the template until another one comes.
//!
//! The id is a hash of what remains of the first line of the pattern. So it depends on the wording
//! alone: not on the time, the order of lines, a restart, or on which server saw it. The one
//! exception: when 8 patterns of at most 24 words differ in one and the same word only, and that is
//! no word of grammar or state, they are made one, under the id of the oldest.
//!
//! State: the patterns, at most `max_patterns` (default 10,000; about 1 KiB each). When there are
//! more, the sixteenth part that was seen longest ago is forgotten; a forgotten pattern that comes
//! back is new again. How well it groups, and what it costs: docs/log_pattern.md.

mod bytes;
mod chunk;
mod lexicon;
mod miner;
mod operator;
mod pattern;
mod scan;
mod shape;
mod state;
#[cfg(test)]
mod tests;
mod words;

use arrow::datatypes::DataType;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{Operator, OperatorKind, OperatorPlan, OutputPlan};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;

use crate::inputs;

/// The row of the table.
pub(crate) const KIND: OperatorKind = OperatorKind {
    name: "log_pattern",
    about: "find the pattern of each log line",
    source: include_str!("log_pattern.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Default of `max_patterns`: services have hundreds; 10 MB.
const PATTERNS_MAX: usize = 10_000;

/// What `max_patterns` can be at most: 1 GB.
const PATTERNS_MAX_MAX: usize = 1_000_000;

/// How far back a replay starts, as far as it ever does: what an hour did not bring is new there.
const REACH: i64 = 3_600_000_000_000;

/// Default of `field`.
const FIELD: &str = "body";

const ID: &str = "pattern.id";
const TEMPLATE: &str = "pattern.template";
const PARAMETERS: &str = "pattern.parameters";
const NEW: &str = "pattern.new";
const CHANGED: &str = "pattern.changed";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Text column with the lines; default `body`.
    field: Option<Spanned<String>>,
    /// Most patterns that are kept; default 10,000.
    max_patterns: Option<Spanned<usize>>,
    /// Whether rows get `pattern.parameters`; default true.
    parameters: Option<bool>,
}

#[derive(Debug)]
struct LogPatternPlan {
    field: String,
    patterns_max: usize,
    parameters: bool,
    edge: Edge,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn OperatorPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut edge = inputs::merged(scope);
    let mut wrong = Diagnostics::default();
    if let Some(written) = &config.field {
        match edge.check(&written.value, &section.span(written)) {
            Some(d) if edge.open => scope.warn(d),
            Some(d) => wrong.push(d),
            None => {}
        }
    }
    let patterns_max = config.max_patterns.as_ref().map_or(PATTERNS_MAX, |m| m.value);
    if let Some(written) = &config.max_patterns
        && !(1..=PATTERNS_MAX_MAX).contains(&patterns_max)
    {
        let d = Diagnostic::error("W310", format!("`max_patterns` of {patterns_max}"));
        wrong.push(d.at(&section.span(written)).label("expected 1 to 1,000,000"));
    }
    if wrong.has_errors() {
        return Err(wrong);
    }
    let parameters = config.parameters.unwrap_or(true);
    for (name, data_type) in columns(parameters) {
        edge.columns.insert(name.to_owned(), Some(data_type));
    }
    let field = config.field.map_or_else(|| FIELD.to_owned(), |f| f.value);
    Ok(Box::new(LogPatternPlan { field, patterns_max, parameters, edge }))
}

/// What it adds.
fn columns(parameters: bool) -> impl Iterator<Item = (&'static str, DataType)> {
    let all = [
        (ID, DataType::Utf8),
        (TEMPLATE, DataType::Utf8),
        (PARAMETERS, DataType::Utf8),
        (NEW, DataType::Boolean),
        (CHANGED, DataType::Boolean),
    ];
    all.into_iter().filter(move |(name, _)| parameters || *name != PARAMETERS)
}

impl OperatorPlan for LogPatternPlan {
    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: "", edge: self.edge.clone() }]
    }

    fn columns(&self) -> Vec<String> {
        vec![self.field.clone()]
    }

    fn state_shape(&self) -> Option<String> {
        Some(format!("log_pattern {}: of {}", state::VERSION, self.field))
    }

    fn reach(&self) -> i64 {
        REACH
    }

    fn build(&self) -> Box<dyn Operator> {
        let (field, parameters) = (self.field.clone(), self.parameters);
        Box::new(operator::LogPattern::new(field, self.patterns_max, parameters))
    }
}
