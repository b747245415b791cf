//! Options that operators over series have in common, read and checked.

use std::ops::RangeInclusive;

use arrow::datatypes::DataType;
use weir_pipeline::config::{Duration, Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;
use weir_pipeline::signal::{Signal, timestamp};

use super::{TIMESTAMP, VALUE};
use crate::inputs;

/// Most series that an operator may be told to know: places are 32-bit.
const SERIES_LIMIT: usize = u32::MAX as usize - 1;

/// The shortest step, nanoseconds.
const STEP_MIN: i64 = 1_000_000;

/// Reads the options of one section, and collects what is wrong with them.
pub(crate) struct Options<'a> {
    section: &'a Section,
    scope: &'a Scope,
    pub(crate) input: Edge,
    pub(crate) wrong: Diagnostics,
}

impl<'a> Options<'a> {
    pub(crate) fn new(section: &'a Section, scope: &'a Scope) -> Self {
        let input = inputs::merged(scope);
        Self { section, scope, input, wrong: Diagnostics::default() }
    }

    /// A SQL expression over the rows of the input that gives numbers.
    pub(crate) fn number_of<T: AsRef<str>>(
        &mut self,
        key: &str,
        written: &Option<Spanned<T>>,
    ) -> Option<Expression> {
        let written = written.as_ref()?;
        let text = self.section.text(written);
        let e = self.wrong.ok(Expression::parse(&text, &self.input, self.scope))?;
        // A column of text may hold numbers; what is not made of columns never will.
        if e.columns().is_empty() && e.data_type().is_some_and(|t| !t.is_numeric()) {
            self.wrong(key, written, "is no number", "expected a number, or a column that has one");
        }
        Some(e)
    }

    /// What tells series apart, under the names that their columns get, which `added` are not.
    pub(crate) fn by(
        &mut self,
        written: &[Spanned<String>],
        added: &[(&str, DataType)],
    ) -> Vec<(String, Expression)> {
        let mut by: Vec<(String, Expression)> = Vec::new();
        for written in written {
            let text = self.section.text(written);
            let parsed = Expression::parse(&text, &self.input, self.scope);
            let Some(e) = self.wrong.ok(parsed) else { continue };
            let name = e.as_column().unwrap_or(written.value.trim()).to_owned();
            if name == TIMESTAMP || added.iter().any(|(added, _)| *added == name) {
                self.wrong("by", written, "names a column that is added here", "choose another");
            } else if by.iter().any(|(other, _)| *other == name) {
                self.wrong("by", written, "names a column twice", "once is enough");
            }
            by.push((name, e));
        }
        by
    }

    /// The name of a column that is there, or may come.
    pub(crate) fn column(&mut self, written: &Spanned<String>) {
        match self.input.check(&written.value, &self.section.span(written)) {
            Some(d) if self.input.open => self.scope.warn(d),
            Some(d) => self.wrong.push(d),
            None => {}
        }
    }

    /// The length of a step, nanoseconds.
    pub(crate) fn step(&mut self, written: &Option<Spanned<Duration>>, default: i64) -> i64 {
        let step = self.duration("step", written, default);
        if let Some(written) = written.as_ref().filter(|_| step < STEP_MIN) {
            self.wrong("step", written, "is out of range", "expected 1ms or more");
        }
        step.max(STEP_MIN)
    }

    /// Nanoseconds, more than none.
    pub(crate) fn duration(
        &mut self,
        key: &str,
        written: &Option<Spanned<Duration>>,
        default: i64,
    ) -> i64 {
        let Some(written) = written else { return default };
        let nanos = written.value.nanos();
        if nanos <= 0 {
            self.wrong(key, written, "is no time", "expected more than 0s");
            return default;
        }
        nanos
    }

    pub(crate) fn number(
        &mut self,
        key: &str,
        written: &Option<Spanned<f64>>,
        default: f64,
        range: RangeInclusive<f64>,
    ) -> f64 {
        let Some(written) = written else { return default };
        // Not a number is out of any range.
        if !range.contains(&written.value) {
            let expected = match (*range.start(), *range.end()) {
                (f64::MIN, f64::MAX) => "expected a number".to_owned(),
                (start, f64::MAX) => format!("expected {start} or more"),
                (start, end) => format!("expected {start} to {end}"),
            };
            self.wrong(key, written, "is out of range", &expected);
        }
        written.value
    }

    pub(crate) fn count(
        &mut self,
        key: &str,
        written: &Option<Spanned<usize>>,
        default: usize,
        range: RangeInclusive<usize>,
    ) -> usize {
        let Some(written) = written else { return default };
        if !range.contains(&written.value) {
            let expected = format!("expected {} to {}", range.start(), range.end());
            self.wrong(key, written, "is out of range", &expected);
        }
        written.value
    }

    pub(crate) fn max_series(&mut self, written: &Option<Spanned<usize>>, default: usize) -> usize {
        self.count("max_series", written, default, 1..=SERIES_LIMIT)
    }

    /// Notes a mistake at the value of `key`.
    pub(crate) fn wrong<T>(&mut self, key: &str, at: &Spanned<T>, what: &str, label: &str) {
        let d = Diagnostic::error("W310", format!("`{key}` {what}"));
        self.wrong.push(d.at(&self.section.span(at)).label(label));
    }

    /// The edge of rows that are made for series: closed if `by` says what those have.
    pub(crate) fn edge(
        &self,
        signal: &str,
        by: &[(String, Expression)],
        columns: &[(&str, DataType)],
    ) -> Edge {
        let mut edge = Edge::open(Signal::named(signal));
        if by.is_empty() {
            let names = self.input.signal.entity_columns().iter();
            edge.columns.extend(names.map(|name| ((*name).to_owned(), Some(DataType::Utf8))));
        } else {
            edge.columns.extend(by.iter().map(|(name, _)| (name.clone(), None)));
            edge.open = false;
        }
        let all = columns.iter().map(|(name, t)| ((*name).to_owned(), Some(t.clone())));
        edge.columns.extend(all);
        edge.columns.insert(TIMESTAMP.to_owned(), Some(timestamp()));
        edge
    }
}

/// The columns that such an operator reads.
pub(crate) fn columns(value: Option<&Expression>, by: &[(String, Expression)]) -> Vec<String> {
    let value = value.map_or_else(|| vec![VALUE.to_owned()], |e| e.columns().to_vec());
    value.into_iter().chain(by.iter().flat_map(|(_, e)| e.columns().to_vec())).collect()
}

/// What series are made of, for the shape of a state.
pub(crate) fn shape(value: Option<&Expression>, by: &[(String, Expression)]) -> String {
    let value = value.map_or(VALUE, |e| e.text());
    let by: Vec<&str> = by.iter().map(|(_, e)| e.text()).collect();
    // States by expressions that have no counters yet are others.
    let counters = if by.is_empty() { "" } else { " with counters" };
    format!("{value} by {by:?}{counters}")
}
