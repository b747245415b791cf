//! Templates of summaries and annotations: text with `{{ expression | filter(argument) }}`.
//!
//! The expression is SQL over the row that made the alert; everything is checked at plan time.
//! What fails at run time renders as `<error: ...>` in its place, and the page goes out.
//!
//! | filter | of | gives |
//! |---|---|---|
//! | `bytes` | a number | `1.5 MiB` |
//! | `duration`, `duration('s')` | a number of nanoseconds, or of the unit given (`ns`, `us`, `ms`, `s`, `m`, `h`) | `1m 30s` |
//! | `percent` | a ratio | `5.2 %` |
//! | `round`, `round(2)` | a number | that many decimals (default none) |
//! | `time`, `time('Europe/Berlin')` | a time | `2026-11-20 14:03:05 CET` |
//! | `json` | anything | JSON |

mod filter;
mod parse;

use arrow::array::{Array, ArrayRef};
use weir_pipeline::batch::Batch;
use weir_pipeline::config::{Scope, Text};
use weir_pipeline::diagnostic::Diagnostics;
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;

use filter::{Filter, Scalar};

/// Longest rendered text, in characters: no receiver shows more, and state stays bounded.
const RENDERED_CHARS_MAX: usize = 4_000;

/// A template as proved.
#[derive(Clone, Debug)]
pub(crate) struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug)]
enum Part {
    Text(String),
    /// Values of an expression, sent through filters in order.
    Value(Box<Expression>, Vec<Filter>),
}

impl Template {
    /// Reads and checks a template over rows of `edge`.
    ///
    /// # Errors
    /// All mistakes, each at its place.
    pub(crate) fn parse(text: &Text, edge: &Edge, scope: &Scope) -> Result<Self, Diagnostics> {
        let mut problems = Diagnostics::default();
        let mut parts = Vec::new();
        for piece in parse::pieces(text, &mut problems) {
            match piece {
                parse::Piece::Text(text) => parts.push(Part::Text(text)),
                parse::Piece::Value { expression, filters } => {
                    let parsed = problems.ok(Expression::parse(&expression, edge, scope));
                    if let Some(parsed) = parsed {
                        parts.push(Part::Value(Box::new(parsed), filters));
                    }
                }
            }
        }
        if problems.has_errors() { Err(problems) } else { Ok(Self { parts }) }
    }

    /// One text per row.
    pub(crate) fn render(&self, batch: &Batch) -> Vec<String> {
        let mut out = vec![String::new(); batch.num_rows()];
        for part in &self.parts {
            match part {
                Part::Text(text) => out.iter_mut().for_each(|o| o.push_str(text)),
                Part::Value(expression, filters) => {
                    render_value(expression, filters, batch, &mut out)
                }
            }
        }
        out.iter().map(|o| crate::notify::excerpt(o, RENDERED_CHARS_MAX)).collect()
    }
}

fn render_value(expression: &Expression, filters: &[Filter], batch: &Batch, out: &mut [String]) {
    let evaluated = match expression.evaluate_each(batch) {
        Ok(evaluated) => evaluated,
        Err(e) => {
            out.iter_mut().for_each(|o| o.push_str(&failure(&e.reason)));
            return;
        }
    };
    let failed: std::collections::BTreeMap<usize, &str> =
        evaluated.errors.iter().map(|(i, e)| (*i, e.reason.as_str())).collect();
    for (row, text) in out.iter_mut().enumerate() {
        match failed.get(&row) {
            Some(reason) => text.push_str(&failure(reason)),
            None => text.push_str(&one(&evaluated.values, row, filters)),
        }
    }
}

fn one(values: &ArrayRef, row: usize, filters: &[Filter]) -> String {
    if row >= values.len() {
        return failure("no value");
    }
    let value = filters.iter().try_fold(Scalar::read(values, row), |v, f| f.apply(v));
    value.map_or_else(|reason| failure(&reason), |v| v.to_text())
}

fn failure(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    format!("<error: {}>", crate::notify::excerpt(line, 200))
}

/// The value at `row` as JSON, for the `value` of a transition.
pub(crate) fn json_value(values: &ArrayRef, row: usize) -> serde_json::Value {
    if row >= values.len() { serde_json::Value::Null } else { Scalar::read(values, row).to_json() }
}

#[cfg(test)]
mod tests;
