//! What names a series: metric name and labels.

use std::borrow::Cow;

use crate::series::BadSeries;

/// Labels of one series: far above what Prometheus itself takes.
const LABELS_MAX: usize = 1_000;

/// What was parsed of a name: metric name and labels.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Series<'a> {
    /// Metric name.
    pub(crate) name: Cow<'a, str>,
    /// Labels in order of appearance; values may be empty.
    pub(crate) labels: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// Parses the text that names a series: `name{a="b"}`, `name`, `{"name", a="b"}`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn series(text: &str) -> Result<Series<'_>, BadSeries> {
    let bad = |why: &str| BadSeries::new("malformed", format!("{why}: {}", sample(text)));
    let (name, braces) = match text.find('{') {
        Some(at) => (text[..at].trim_end_matches([' ', '\t']), &text[at..]),
        None => (text, ""),
    };
    let mut series = Series { name: name.into(), labels: Vec::new() };
    if !name.is_empty() && !is_name(name, true) {
        return Err(bad("not a metric name"));
    }
    labels(braces, &mut series).map_err(bad)?;
    if series.name.is_empty() {
        return Err(bad("series without a name"));
    }
    Ok(series)
}

/// Parses `{...}` (or nothing) into `out`.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn labels<'a>(text: &'a str, out: &mut Series<'a>) -> Result<(), &'static str> {
    let Some(mut rest) = text.strip_prefix('{') else { return Ok(()) };
    loop {
        rest = rest.trim_start_matches([' ', '\t']);
        if let Some(after) = rest.strip_prefix('}') {
            return if after.is_empty() { Ok(()) } else { Err("text after the labels") };
        }
        let (name, after) = if rest.starts_with('"') {
            quoted(rest)?
        } else {
            let end = rest.find(['=', ' ', '\t', ',', '}']).ok_or("label without a value")?;
            if !is_name(&rest[..end], false) {
                return Err("not a label name");
            }
            (Cow::Borrowed(&rest[..end]), &rest[end..])
        };
        let after = after.trim_start_matches([' ', '\t']);
        match after.strip_prefix('=') {
            Some(after) => {
                let (value, after) = quoted(after.trim_start_matches([' ', '\t']))?;
                if name.is_empty() {
                    return Err("label without a name");
                }
                if out.labels.len() == LABELS_MAX {
                    return Err("more than 1000 labels");
                }
                if out.labels.iter().any(|(n, _)| *n == name) {
                    return Err("label given twice");
                }
                out.labels.push((name, value));
                rest = after;
            }
            // `{"name", ...}`: a quoted text alone is the name of the metric.
            None if rest.starts_with('"') && out.name.is_empty() => {
                out.name = name;
                rest = after;
            }
            None => return Err("label without a value"),
        }
        rest = rest.trim_start_matches([' ', '\t']);
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None if rest.starts_with('}') => {}
            None => return Err("expected `,` or `}` after a label"),
        }
    }
}

/// The text in quotes at the start, without its escapes, and the rest.
fn quoted(text: &str) -> Result<(Cow<'_, str>, &str), &'static str> {
    let inner = text.strip_prefix('"').ok_or("value is not in quotes")?;
    let end = inner.find(['"', '\\']).ok_or("quote is not closed")?;
    if inner.as_bytes()[end] == b'"' {
        return Ok((Cow::Borrowed(&inner[..end]), &inner[end + 1..]));
    }
    let mut out = inner[..end].to_owned();
    let mut chars = inner[end..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((Cow::Owned(out), &inner[end + at + 1..])),
            '\\' => match chars.next().ok_or("quote is not closed")?.1 {
                'n' => out.push('\n'),
                c @ ('"' | '\\') => out.push(c),
                // As Prometheus does: an escape that does not exist stands for itself.
                c => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
    Err("quote is not closed")
}

/// Whether `text` may stand without quotes as a label name, or with colons as a metric name.
fn is_name(text: &str, colons: bool) -> bool {
    let first = |b: u8| b.is_ascii_alphabetic() || b == b'_' || (colons && b == b':');
    let mut bytes = text.bytes();
    bytes.next().is_some_and(first) && bytes.all(|b| first(b) || b.is_ascii_digit())
}

/// The start of a text, for messages.
pub(crate) fn sample(text: &str) -> String {
    const CHARS_MAX: usize = 100;
    match text.char_indices().nth(CHARS_MAX) {
        Some((at, _)) => format!("`{}`...", &text[..at]),
        None => format!("`{text}`"),
    }
}
