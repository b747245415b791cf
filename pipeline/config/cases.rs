//! `[[tests]]` in a pipeline file: rows in, ticks, rows out.
//!
//! ```toml
//! [[tests]]
//! name = "errors are counted"
//!
//! [[tests.input]]
//! stream = "otlp.logs"                 # an output of a source, or of a node above the tested ones
//! at = "1s"                            # optional: since the start, or a time; default: the last one
//! rows = [
//!   { severity = "ERROR", body = "no", "service.name" = "cart" },
//!   { severity = "INFO", body = "yes", "service.name" = "cart" },
//! ]
//!
//! [[tests.input]]
//! tick = "30s"                         # time moves on: windows emit, timers fire
//!
//! [[tests.expect]]
//! output = "errors"                    # `id` or `id.output`
//! rows = [{ "service.name" = "cart", errors = 1, total = 2 }]
//! ```
//! The clock starts at 2026-01-01T00:00:00Z and never goes back. A row without `timestamp` has the
//! time at which it comes in. An expected row must be contained in the one that came out: columns
//! that it does not name are free. Order and number of rows must agree; `rows = []` says that
//! nothing comes.

use std::cell::Cell;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::section::{Section, Spanned};
use super::types::Duration;
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::plan::{TestPlan, TestStep};

/// When the clock of a test starts: 2026-01-01T00:00:00Z in UTC nanoseconds.
pub const TEST_EPOCH: i64 = 1_767_225_600_000_000_000;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "the name is read with the shape of the file")]
struct Config {
    name: String,
    #[serde(default)]
    input: Vec<Spanned<Step>>,
    #[serde(default)]
    expect: Vec<Spanned<Expect>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Step {
    stream: Option<Spanned<String>>,
    at: Option<Spanned<String>>,
    #[serde(default)]
    rows: Vec<Map<String, Value>>,
    tick: Option<Spanned<String>>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Expect {
    output: Spanned<String>,
    rows: Vec<Map<String, Value>>,
}

/// Reads one test. `input` and `output` check names of streams: what rows can come in as, and
/// what can be expected; they give the mistake.
pub(crate) fn read(
    section: &Section,
    input: impl Fn(&str) -> Option<String>,
    output: impl Fn(&str) -> Option<String>,
) -> Result<TestPlan, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut test = TestPlan {
        name: section.id.clone(),
        steps: Vec::new(),
        expect: Vec::new(),
        header: section.header.clone(),
    };
    let owner = &section.owner;
    let mut error = |message: String, at: &Spanned<String>| {
        let message = format!("{owner}: {message}");
        wrong.push(Diagnostic::error("W050", message).at(&section.span(at)));
    };
    let now = Cell::new(TEST_EPOCH);
    let move_to = |text: &Spanned<String>, error: &mut dyn FnMut(String, &Spanned<String>)| {
        match time(&text.value) {
            Some(at) if at >= now.get() => now.set(at),
            Some(_) => error(format!("time goes back to `{}`", text.value), text),
            None => {
                let expected = "expected a duration since the start, or a time";
                error(format!("`{}` is no time, {expected}", text.value), text);
            }
        }
        now.get()
    };
    let mut shapeless = Vec::new();
    for step in config.input {
        let Step { stream, at, rows, tick } = step.value;
        let at = at.map_or(now.get(), |at| move_to(&at, &mut error));
        match &stream {
            Some(stream) => {
                if let Some(problem) = input(&stream.value) {
                    error(problem, stream);
                }
                test.steps.push(TestStep::Rows { output: stream.value.clone(), at, rows });
            }
            None if !rows.is_empty() || tick.is_none() => shapeless.push(step.range),
            None => {}
        }
        if let Some(tick) = &tick {
            test.steps.push(TestStep::Tick(move_to(tick, &mut error)));
        }
    }
    for expect in config.expect {
        let Expect { output: name, rows } = expect.value;
        if let Some(problem) = output(&name.value) {
            error(problem, &name);
        }
        test.expect.push((name.value.clone(), section.span(&name), rows));
    }
    for range in shapeless {
        let message = format!("{owner}: an input needs `stream` and `rows`, or `tick`");
        let span = crate::diagnostic::Span { file: section.file.clone(), range };
        wrong.push(Diagnostic::error("W050", message).at(&span));
    }
    if test.expect.is_empty() && wrong.0.is_empty() {
        let message = format!("{owner} expects nothing");
        let hint = "add `[[tests.expect]]` with `output` and `rows`; `rows = []` is nothing";
        wrong.push(Diagnostic::error("W050", message).at(&section.header).hint(hint));
    }
    if wrong.0.is_empty() { Ok(test) } else { Err(wrong) }
}

fn time(text: &str) -> Option<i64> {
    if let Ok(since) = text.parse::<Duration>() {
        return TEST_EPOCH.checked_add(since.nanos());
    }
    let time = text.parse::<jiff::Timestamp>().ok()?;
    i64::try_from(time.as_nanosecond()).ok()
}
