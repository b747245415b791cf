//! `${NAME}` in string values.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where `${NAME}` looks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Environment {
    /// The variables of this process.
    #[default]
    Process,
    /// These and no other: what a [`super::Bundle`] kept, or what a test gives.
    Fixed(BTreeMap<String, String>),
    /// These, and those of this process.
    Over(BTreeMap<String, String>),
}

impl Environment {
    /// The value of a variable.
    pub fn get(&self, name: &str) -> Option<String> {
        match self {
            Self::Process => std::env::var(name).ok(),
            Self::Fixed(map) => map.get(name).cloned(),
            Self::Over(map) => map.get(name).cloned().or_else(|| std::env::var(name).ok()),
        }
    }
}

/// What is wrong with a `${...}`, and which bytes of the text are.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BadVariable {
    pub(crate) range: Range<usize>,
    pub(crate) message: String,
    pub(crate) hint: String,
    /// Whether it is well written and only has no value.
    pub(crate) unset: bool,
}

/// Replaces `${NAME}`, `${NAME:-default}` and `$$`. A `$` before anything else stays, and so does
/// what stands inside `{{ }}`, where SQL begins. The names used are added to `used`.
pub(crate) fn interpolate(
    text: &str,
    environment: &Environment,
    used: &mut BTreeMap<String, String>,
) -> Result<String, Vec<BadVariable>> {
    let mut out = String::with_capacity(text.len());
    let mut bad = Vec::new();
    let mut at = 0;
    while let Some(rest) = text.get(at..).filter(|r| !r.is_empty()) {
        if rest.starts_with("{{") {
            let end = rest.find("}}").map_or(rest.len(), |i| i + 2);
            out.push_str(&rest[..end]);
            at += end;
        } else if rest.starts_with("$$") {
            out.push('$');
            at += 2;
        } else if let Some(inside) = rest.strip_prefix("${") {
            let length = inside.find('}').unwrap_or(inside.len());
            let end = (at + 2 + length + 1).min(text.len());
            let closed = length < inside.len();
            match variable(&inside[..length], closed, environment, used) {
                Ok(value) => out.push_str(&value),
                Err((unset, message, hint)) => {
                    bad.push(BadVariable { range: at..end, message, hint, unset });
                }
            }
            at = end;
        } else {
            let next = rest
                .char_indices()
                .skip(1)
                .find(|(_, c)| matches!(c, '$' | '{'))
                .map_or(rest.len(), |(i, _)| i);
            out.push_str(&rest[..next]);
            at += next;
        }
    }
    if bad.is_empty() { Ok(out) } else { Err(bad) }
}

fn variable(
    inside: &str,
    closed: bool,
    environment: &Environment,
    used: &mut BTreeMap<String, String>,
) -> Result<String, (bool, String, String)> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let word = |c: char| c == '_' || c.is_ascii_alphanumeric();
    if !closed || name.is_empty() || !name.chars().all(word) {
        let message = "this is not a variable".to_owned();
        let hint = "write `${NAME}` or `${NAME:-default}`; `$$` is a dollar".to_owned();
        return Err((false, message, hint));
    }
    match (environment.get(name).filter(|v| default.is_none() || !v.is_empty()), default) {
        (Some(value), _) => {
            used.insert(name.to_owned(), value.clone());
            Ok(value)
        }
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            let hint = format!("set it, or give a default: `${{{name}:-default}}`");
            Err((true, format!("variable `{name}` is not set"), hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expect: &str) {
        let map = [("HOST", "db1"), ("EMPTY", "")].map(|(k, v)| (k.to_owned(), v.to_owned()));
        let environment = Environment::Fixed(BTreeMap::from(map));
        let mut used = BTreeMap::new();
        let got = match interpolate(text, &environment, &mut used) {
            Ok(text) => text,
            Err(bad) => bad
                .iter()
                .map(|b| format!("{}: {}", &text[b.range.clone()], b.message))
                .collect::<Vec<_>>()
                .join("; "),
        };
        assert_eq!(got, expect);
    }

    #[test]
    fn variables_defaults_and_dollars() {
        check("plain", "plain");
        check("http://${HOST}:80/${HOST}", "http://db1:80/db1");
        check("${PORT:-80}${EMPTY:-x}${EMPTY}", "80x");
        check("costs $$5, $5, $labels ä$", "costs $5, $5, $labels ä$");
        check("$${HOST}", "${HOST}");
        check(
            "${NO} and ${NEITHER}",
            "${NO}: variable `NO` is not set; ${NEITHER}: variable `NEITHER` is not set",
        );
        check("${a-b}", "${a-b}: this is not a variable");
        check("ä ${HOST", "${HOST: this is not a variable");
        check("{{ '${HOST}' }} ${HOST} { $", "{{ '${HOST}' }} db1 { $");
    }
}
