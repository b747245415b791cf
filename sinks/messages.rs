//! Rows as messages, for sinks that write to a log of messages: one JSON object each, where to, and
//! with what key.

use std::collections::{BTreeMap, VecDeque};

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, TimestampNanosecondType};
use bytes::Bytes;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::SinkError;
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::expression::Expression;

use crate::lines::lines;

/// A row on its way out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Topic or subject; `None` if the expression gave none for this row.
    pub(crate) to: Option<String>,
    /// Its key, if there is one.
    pub(crate) key: Option<String>,
    /// Its `timestamp`, UTC nanoseconds.
    pub(crate) time: Option<i64>,
    /// The row as a JSON object.
    pub(crate) value: Bytes,
}

/// Where messages go: to one place, or to what an expression says of each row.
#[derive(Clone, Debug)]
pub(crate) enum Destination {
    /// All of them.
    Fixed(String),
    /// By row.
    Each(Expression),
}

/// An expression of a sink, over the columns of all its inputs.
///
/// # Errors
/// What is wrong with it, at its place.
pub(crate) fn expression(
    section: &Section,
    scope: &Scope,
    text: &Spanned<String>,
) -> Result<Expression, Diagnostics> {
    let edge = Edge::merged(scope.inputs.iter().map(|i| &i.edge));
    Expression::parse(&section.text(text), &edge, scope)
}

/// Puts the batches of partitions of a topic that are gone behind those of the ones that are `there`:
/// those of one all behind the same other one, so that rows of a key stay in order.
pub(crate) fn rehome<N: Copy + Ord, B>(
    batches: &mut BTreeMap<(String, N), VecDeque<B>>,
    topic: &str,
    there: &[N],
) {
    let of_topic = batches.keys().filter(|(t, number)| t == topic && !there.contains(number));
    let gone: Vec<(String, N)> = of_topic.cloned().collect();
    for (place, to) in gone.into_iter().zip(there.iter().cycle()) {
        let moved = batches.remove(&place).unwrap_or_default();
        batches.entry((place.0, *to)).or_default().extend(moved);
    }
}

impl Destination {
    /// Of `fixed` and `by`, which stand in the keys `name` and `name_by`, one has to be there.
    ///
    /// # Errors
    /// If it is none or both, or the expression is wrong.
    pub(crate) fn plan(
        section: &Section,
        scope: &Scope,
        name: &str,
        fixed: Option<&Spanned<String>>,
        by: Option<&Spanned<String>>,
    ) -> Result<Self, Diagnostics> {
        let error =
            |message: String, span| Err(Diagnostic::error("W015", message).at(&span).into());
        match (fixed, by) {
            (Some(fixed), None) if fixed.value.is_empty() => {
                error(format!("`{name}` is empty"), section.span(fixed))
            }
            (Some(fixed), None) => Ok(Self::Fixed(fixed.value.clone())),
            (None, Some(by)) => Ok(Self::Each(expression(section, scope, by)?)),
            (Some(_), Some(by)) => {
                error(format!("`{name}` and `{name}_by` exclude each other"), section.span(by))
            }
            (None, None) => {
                let message = format!("sink `{}` needs `{name}` or `{name}_by`", section.id);
                error(message, section.header.clone())
            }
        }
    }
}

/// The rows of a batch. A row for which an expression fails has no destination, or no key.
///
/// # Errors
/// If an expression does not fit the columns at all.
pub(crate) fn messages(
    batch: &Batch,
    to: &Destination,
    key: Option<&Expression>,
) -> Result<Vec<Message>, SinkError> {
    let each = match to {
        Destination::Fixed(_) => None,
        Destination::Each(expression) => Some(texts(batch, expression)?),
    };
    let keys = key.map(|key| texts(batch, key)).transpose()?;
    let times = batch.array("timestamp");
    let times = times.as_ref().and_then(|t| t.as_primitive_opt::<TimestampNanosecondType>());
    let text = Bytes::from(lines(batch)?);
    let mut start = 0;
    let mut out = Vec::with_capacity(batch.num_rows());
    for row in 0..batch.num_rows() {
        let end =
            text[start..].iter().position(|&b| b == b'\n').map_or(text.len(), |at| start + at);
        let value = |array: &StringArray| {
            array.is_valid(row).then(|| array.value(row).to_owned()).filter(|v| !v.is_empty())
        };
        out.push(Message {
            to: match (to, &each) {
                (Destination::Fixed(to), _) => Some(to.clone()),
                (_, each) => each.as_ref().and_then(value),
            },
            key: keys.as_ref().and_then(value),
            time: times.filter(|t| t.is_valid(row)).map(|t| t.value(row)),
            value: text.slice(start..end),
        });
        start = (end + 1).min(text.len());
    }
    Ok(out)
}

fn texts(batch: &Batch, expression: &Expression) -> Result<StringArray, SinkError> {
    let values =
        expression.evaluate_each(batch).map_err(|e| SinkError::permanent(e.to_string()))?;
    let values: ArrayRef = cast(&values.values, &DataType::Utf8)
        .map_err(|e| SinkError::permanent(format!("`{}`: {e}", expression.text())))?;
    Ok(values.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch, TimestampNanosecondArray};
    use weir_pipeline::batch::{Run, TENANT};
    use weir_pipeline::signal::Signal;

    use super::*;

    fn batch() -> Batch {
        let run = Run { offset: 1, received: 0, source: "test".into(), rows: 3 };
        let times = TimestampNanosecondArray::from(vec![Some(5), None, Some(7)]);
        let columns: [(&str, ArrayRef); 3] = [
            ("timestamp", Arc::new(times.with_timezone("UTC"))),
            ("n", Arc::new(Int64Array::from(vec![1, 2, 0]))),
            ("who", Arc::new(StringArray::from(vec![Some("a"), None, Some("")]))),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns.map(|(n, a)| (n, a, true)));
        Batch::new(Signal::Logs, TENANT.into(), rows.unwrap(), None, Arc::new([run])).unwrap()
    }

    fn parse(sql: &str) -> Expression {
        let section = Section::parse_for_tests("sink", &format!("by = \"{sql}\""));
        let text: By = section.read().unwrap();
        expression(&section, &Scope::default(), &text.by).unwrap()
    }

    #[derive(serde::Deserialize, schemars::JsonSchema)]
    struct By {
        by: Spanned<String>,
    }

    #[test]
    fn rows_are_messages_with_place_and_key() {
        let to = Destination::Each(parse("'to.' || who"));
        let rows = messages(&batch(), &to, Some(&parse("10 / n"))).unwrap();
        let tos: Vec<_> = rows.iter().map(|m| m.to.as_deref()).collect();
        assert_eq!(tos, [Some("to.a"), None, Some("to.")]);
        // A number is a key, too; where it cannot be worked out there is none.
        let keys: Vec<_> = rows.iter().map(|m| m.key.as_deref()).collect();
        assert_eq!(keys, [Some("10"), Some("5"), None]);
        assert_eq!(rows.iter().map(|m| m.time).collect::<Vec<_>>(), [Some(5), None, Some(7)]);
        let values: Vec<_> = rows.iter().map(|m| std::str::from_utf8(&m.value).unwrap()).collect();
        assert_eq!(values[1], r#"{"n":2}"#);
        assert!(values[0].starts_with(r#"{"n":1,"timestamp":"1970-01-01T00:00:00"#), "{values:?}");
    }

    #[test]
    fn batches_of_partitions_that_are_gone_go_to_others_in_order() {
        let place = |topic: &str, number: i32| (topic.to_owned(), number);
        let all = [("a", 0, 1), ("a", 2, 1), ("a", 3, 2), ("a", 4, 1), ("b", 3, 1)];
        let mut batches: BTreeMap<_, VecDeque<String>> = BTreeMap::new();
        for (topic, number, count) in all {
            let names = (0..count).map(|n| format!("{topic}{number}.{n}"));
            batches.insert(place(topic, number), names.collect());
        }
        rehome(&mut batches, "a", &[0, 1]);
        // Nothing is lost while a topic has none.
        rehome(&mut batches, "b", &[]);
        let found: Vec<String> = batches
            .iter()
            .map(|((topic, number), b)| format!("{topic}{number}: {:?}", Vec::from(b.clone())))
            .collect();
        let expect =
            [r#"a0: ["a0.0", "a2.0", "a4.0"]"#, r#"a1: ["a3.0", "a3.1"]"#, r#"b3: ["b3.0"]"#];
        assert_eq!(found, expect);
    }
}
