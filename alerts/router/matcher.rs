//! Alertmanager matchers: `severity = "page"`, `team =~ "web|db"`, `!=`, `!~`.
//!
//! Regular expressions are anchored at both ends. A label that is missing has the empty value.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// How a label is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Match,
    NoMatch,
}

impl Op {
    const ALL: [(&'static str, Self); 4] =
        [("=~", Self::Match), ("!~", Self::NoMatch), ("!=", Self::NotEqual), ("=", Self::Equal)];

    fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(_, op)| *op == self).map_or("=", |(s, _)| s)
    }
}

/// A condition on one label.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    name: String,
    op: Op,
    value: String,
    regex: Option<Regex>,
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, self.op, &self.value) == (&other.name, other.op, &other.value)
    }
}

/// What is wrong with a matcher's text, with the bytes it concerns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MatcherError {
    pub(crate) message: String,
    pub(crate) range: std::ops::Range<usize>,
}

impl Matcher {
    /// Reads one matcher.
    pub(crate) fn parse(text: &str) -> Result<Self, MatcherError> {
        let fail = |message: String, range| Err(MatcherError { message, range });
        let reserved = |c: char| c.is_whitespace() || "{}!=~,\\\"'`".contains(c);
        let start = text.len() - text.trim_start().len();
        let rest = &text[start..];
        let (name, after) = if rest.starts_with('"') {
            match unquote(rest) {
                Some((name, used)) => (name, start + used),
                None => return fail("the quote is not closed".into(), start..text.len()),
            }
        } else {
            let len = rest.find(reserved).unwrap_or(rest.len());
            (rest[..len].to_owned(), start + len)
        };
        if name.is_empty() {
            return fail(
                "expected a label name, as in `severity = \"page\"`".into(),
                start..text.len(),
            );
        }
        let at = after + (text[after..].len() - text[after..].trim_start().len());
        let Some((sign, op)) = Op::ALL.into_iter().find(|(s, _)| text[at..].starts_with(s)) else {
            return fail("expected one of `=`, `!=`, `=~`, `!~`".into(), at..text.len());
        };
        let tail = &text[at + sign.len()..];
        let from = at + sign.len() + (tail.len() - tail.trim_start().len());
        let tail = &text[from..];
        let (value, end) = if tail.starts_with('"') {
            match unquote(tail) {
                Some((value, used)) => (value, from + used),
                None => return fail("the quote is not closed".into(), from..text.len()),
            }
        } else {
            let len = tail.find(reserved).unwrap_or(tail.len());
            (tail[..len].to_owned(), from + len)
        };
        if !text[end..].trim().is_empty() {
            let message = "expected the end: one matcher per text, values with other \
                           characters than letters in double quotes";
            return fail(message.into(), end..text.len());
        }
        let regex = match op {
            // By itself first: `a)|(b` would be one only in between the parentheses.
            Op::Match | Op::NoMatch => {
                match Regex::new(&value).and_then(|_| Regex::new(&format!("^(?s:{value})$"))) {
                    Ok(regex) => Some(regex),
                    Err(e) => {
                        let e = e.to_string();
                        let reason = e.lines().last().unwrap_or_default();
                        let reason = reason.strip_prefix("error: ").unwrap_or(reason);
                        return fail(format!("not a regular expression: {reason}"), from..end);
                    }
                }
            }
            Op::Equal | Op::NotEqual => None,
        };
        Ok(Self { name, op, value, regex })
    }

    /// Whether `labels` fulfil it.
    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let found = labels.get(&self.name).map_or("", String::as_str);
        let regex = || self.regex.as_ref().is_some_and(|r| r.is_match(found));
        match self.op {
            Op::Equal => found == self.value,
            Op::NotEqual => found != self.value,
            Op::Match => regex(),
            Op::NoMatch => !regex(),
        }
    }
}

/// The text inside the double quotes that `text` starts with, and the bytes used.
fn unquote(text: &str) -> Option<(String, usize)> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((i, c)) = chars.next() {
        match c {
            '"' => return Some((out, i + 1)),
            '\\' => match chars.next()?.1 {
                'n' => out.push('\n'),
                c @ ('"' | '\\') => out.push(c),
                c => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
    None
}

impl fmt::Display for Matcher {
    /// As Alertmanager writes it: `severity="page"`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plain = |s: &str| {
            !s.is_empty() && s.chars().all(|c| c.is_alphanumeric() || "._-:/".contains(c))
        };
        match plain(&self.name) {
            true => f.write_str(&self.name)?,
            false => quote(f, &self.name)?,
        }
        f.write_str(self.op.as_str())?;
        quote(f, &self.value)
    }
}

fn quote(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    write!(f, "\"{text}\"")
}

impl Serialize for Matcher {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Matcher {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        Self::parse(&text).map_err(|e| serde::de::Error::custom(e.message))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn check(matcher: &str, labels: &[(&str, &str)], expect: bool) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let m = Matcher::parse(matcher).unwrap();
        assert_eq!(m.matches(&labels), expect, "{matcher}");
        assert_eq!(Matcher::parse(&m.to_string()).unwrap(), m, "{m}");
    }

    #[test]
    fn compares() {
        check(r#"severity = "page""#, &[("severity", "page")], true);
        check("severity=page", &[("severity", "page")], true);
        check(r#"severity = "page""#, &[("severity", "pager")], false);
        check(r#"severity != "page""#, &[], true);
        check(r#"team =~ "web|db""#, &[("team", "db")], true);
        check(r#"team =~ "web|db""#, &[("team", "dbx")], false);
        check(r#"team =~ "web|db""#, &[("team", "xweb")], false);
        check(r#"team !~ "web|db""#, &[("team", "dbx")], true);
        check(r#"team = """#, &[], true);
        check(r#"team =~ ".*""#, &[], true);
        check(r#"team =~ ".+""#, &[], false);
        check(r#"service.name = "cart""#, &[("service.name", "cart")], true);
        check(r#""odd name" = "a\"b\\c\n""#, &[("odd name", "a\"b\\c\n")], true);
        check(r#"path =~ "\d+""#, &[("path", "42")], true);
        check(r#"ort = "Köln""#, &[("ort", "Köln")], true);
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expect) in [
            ("", "expected a label name"),
            ("severity", "expected one of"),
            ("severity = \"page", "not closed"),
            ("severity = \"page\", team = \"x\"", "expected the end"),
            ("team =~ \"(\"", "not a regular expression"),
            ("team =~ \"a)|(b\"", "not a regular expression"),
            ("= \"x\"", "expected a label name"),
        ] {
            let error = Matcher::parse(text).unwrap_err();
            assert!(error.message.contains(expect), "{text}: {}", error.message);
        }
    }
}
