//! From text to pieces: where expressions begin and end, and which filters follow them.

use std::ops::Range;

use weir_pipeline::config::Text;
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics, nearest};

use super::filter::Filter;

/// A stretch of a template.
pub(super) enum Piece {
    Text(String),
    Value { expression: Text, filters: Vec<Filter> },
}

/// Splits a template. Mistakes go to `problems`, each at its place; what they concern is left out.
pub(super) fn pieces(text: &Text, problems: &mut Diagnostics) -> Vec<Piece> {
    let source = text.text.as_str();
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(open) = source[at..].find("{{").map(|i| at + i) {
        if open > at {
            out.push(Piece::Text(source[at..open].to_owned()));
        }
        let start = open + 2;
        let Some(end) = close(source, start) else {
            problems.push(
                Diagnostic::error("W160", "template with an expression that does not end")
                    .at(&text.locate(open..start))
                    .label("expected `}}` after it"),
            );
            return out;
        };
        if let Some(piece) = value(text, start..end, problems) {
            out.push(piece);
        }
        at = end + 2;
    }
    if at < source.len() {
        out.push(Piece::Text(source[at..].to_owned()));
    }
    out
}

/// Bytes outside of quotes, with their depth of parentheses.
fn bare(source: &str, range: Range<usize>) -> impl Iterator<Item = (usize, u8, usize)> + '_ {
    let mut quote = None;
    let mut depth = 0_usize;
    source.as_bytes()[range.clone()].iter().enumerate().filter_map(move |(i, &b)| {
        match quote {
            Some(q) => {
                if b == q {
                    quote = None;
                }
                return None;
            }
            None if b == b'\'' || b == b'"' => {
                quote = Some(b);
                return None;
            }
            None => {}
        }
        match b {
            b'(' => depth += 1,
            b')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        Some((range.start + i, b, depth))
    })
}

/// Where the `}}` stands that closes the expression from `start`.
fn close(source: &str, start: usize) -> Option<usize> {
    let bytes = source.as_bytes();
    bare(source, start..source.len())
        .find(|&(i, b, _)| b == b'}' && bytes.get(i + 1) == Some(&b'}'))
        .map(|(i, ..)| i)
}

/// Splits at `|`, not at `||`.
fn split(source: &str, range: Range<usize>) -> Vec<Range<usize>> {
    let bytes = source.as_bytes();
    let mut parts = Vec::new();
    let mut start = range.start;
    for (i, b, depth) in bare(source, range.clone()) {
        let double = bytes.get(i + 1) == Some(&b'|') || (i > 0 && bytes[i - 1] == b'|');
        if b == b'|' && depth == 0 && !double {
            parts.push(start..i);
            start = i + 1;
        }
    }
    parts.push(start..range.end);
    parts
}

fn trim(source: &str, range: Range<usize>) -> Range<usize> {
    let text = &source[range.clone()];
    let start = range.start + (text.len() - text.trim_start().len());
    start..start + text.trim().len()
}

fn value(text: &Text, range: Range<usize>, problems: &mut Diagnostics) -> Option<Piece> {
    let source = text.text.as_str();
    let mut parts = split(source, range.clone()).into_iter();
    let expression = trim(source, parts.next()?);
    let written = &source[expression.clone()];
    let place = text.locate(if expression.is_empty() { range } else { expression.clone() });
    if let Some(problem) = foreign(written) {
        problems.push(problem.at(&place));
        return None;
    }
    let mut filters = Vec::new();
    let mut sound = true;
    for part in parts {
        let part = trim(source, part);
        match filter(&source[part.clone()]) {
            Ok(filter) => filters.push(filter),
            Err(problem) => {
                problems.push(problem.at(&text.locate(part)));
                sound = false;
            }
        }
    }
    let inner = Text { text: written.to_owned(), span: place, exact: text.exact };
    sound.then_some(Piece::Value { expression: inner, filters })
}

/// What people bring along from other tools, with the right spelling.
fn foreign(written: &str) -> Option<Diagnostic> {
    let problem = |message: String, hint: String| {
        Some(
            Diagnostic::error("W161", message)
                .label("inside `{{ }}` stands SQL over the row")
                .hint(hint),
        )
    };
    if written.is_empty() {
        return Some(Diagnostic::error("W160", "template with an empty expression"));
    }
    for prefix in ["$labels.", "$externalLabels.", ".Labels.", ".CommonLabels.", ".GroupLabels."] {
        if let Some(name) = written.strip_prefix(prefix) {
            let message = format!("`{prefix}{name}` is another tool's spelling");
            return problem(message, format!("write `{{{{ {name} }}}}`"));
        }
    }
    if written == "$value" || written == ".Value" || written.starts_with("$value ") {
        let message = "`$value` is another tool's spelling".to_owned();
        return problem(message, "name the column, for instance `{{ errors }}`".to_owned());
    }
    if written.starts_with('$')
        || (written.starts_with('.') && written[1..].starts_with(char::is_alphabetic))
    {
        let message = format!("`{written}` is another tool's spelling");
        let name = written.trim_start_matches(['$', '.']);
        return problem(message, format!("columns stand under their own name: `{{{{ {name} }}}}`"));
    }
    None
}

fn filter(written: &str) -> Result<Filter, Box<Diagnostic>> {
    let (name, argument) = match written.split_once('(') {
        Some((name, rest)) => match rest.trim_end().strip_suffix(')') {
            Some(argument) => (name.trim(), Some(argument.trim()).filter(|a| !a.is_empty())),
            None => {
                let message = format!("filter `{}` is not closed", name.trim());
                return Err(Diagnostic::error("W162", message).label("expected `)`").into());
            }
        },
        None => (written, None),
    };
    if !Filter::NAMES.contains(&name) {
        let mut problem = Diagnostic::error("W162", format!("there is no filter `{name}`"));
        if let Some(near) = nearest(name, Filter::NAMES) {
            problem = problem.label(format!("did you mean `{near}`?"));
        }
        return Err(problem.hint(format!("filters are `{}`", Filter::NAMES.join("`, `"))).into());
    }
    let argument = argument.map(unquote);
    Filter::new(name, argument).map_err(|message| Diagnostic::error("W162", message).into())
}

fn unquote(argument: &str) -> &str {
    for quote in ['\'', '"'] {
        if let Some(inner) = argument.strip_prefix(quote).and_then(|a| a.strip_suffix(quote)) {
            return inner;
        }
    }
    argument
}
