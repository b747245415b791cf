//! A small JSON reader for OTLP/JSON.
//!
//! It keeps numbers as their text: OTLP writes 64-bit integers as numbers or strings, and
//! doubles have to come back to the same bits, which `serde_json` does not promise by default.

use std::borrow::Cow;

/// Most levels of nesting.
const DEPTH_MAX: usize = 100;

/// A JSON value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    /// The text of a number.
    Number(&'a str),
    Text(Cow<'a, str>),
    Array(Vec<Json<'a>>),
    /// Members in order; a name may occur twice.
    Object(Vec<(Cow<'a, str>, Json<'a>)>),
}

/// Reads one JSON value.
///
/// # Errors
/// What is wrong, with the byte where.
pub(super) fn parse(text: &str) -> Result<Json<'_>, String> {
    let mut p = Parser { text, at: 0 };
    let value = p.value(0)?;
    match p.peek() {
        None => Ok(value),
        Some(_) => Err(p.wrong("the end of the body")),
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn wrong(&self, expected: &str) -> String {
        format!("the body is not JSON: expected {expected} at byte {}", self.at)
    }

    /// The next byte that is not white space.
    fn peek(&mut self) -> Option<u8> {
        let rest = &self.text.as_bytes()[self.at..];
        let skip = rest.iter().take_while(|b| b" \t\r\n".contains(b)).count();
        self.at += skip;
        rest.get(skip).copied()
    }

    fn word(&mut self, word: &str, value: Json<'a>) -> Result<Json<'a>, String> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            return Ok(value);
        }
        Err(self.wrong("a value"))
    }

    fn value(&mut self, depth: usize) -> Result<Json<'a>, String> {
        if depth > DEPTH_MAX {
            return Err(format!("the body is nested deeper than {DEPTH_MAX} levels"));
        }
        match self.peek() {
            Some(b'n') => self.word("null", Json::Null),
            Some(b't') => self.word("true", Json::Bool(true)),
            Some(b'f') => self.word("false", Json::Bool(false)),
            Some(b'"') => self.string().map(Json::Text),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b'[') => {
                let mut items = Vec::new();
                self.members(b']', |p| {
                    items.push(p.value(depth + 1)?);
                    Ok(())
                })?;
                Ok(Json::Array(items))
            }
            Some(b'{') => {
                let mut members = Vec::new();
                self.members(b'}', |p| {
                    if p.peek() != Some(b'"') {
                        return Err(p.wrong("a name"));
                    }
                    let name = p.string()?;
                    if p.peek() != Some(b':') {
                        return Err(p.wrong("`:`"));
                    }
                    p.at += 1;
                    members.push((name, p.value(depth + 1)?));
                    Ok(())
                })?;
                Ok(Json::Object(members))
            }
            _ => Err(self.wrong("a value")),
        }
    }

    /// What stands between brackets, separated by commas.
    fn members(
        &mut self,
        close: u8,
        mut member: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.at += 1;
        if self.peek() == Some(close) {
            self.at += 1;
            return Ok(());
        }
        loop {
            member(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b) if b == close => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.wrong("`,` or the closing bracket")),
            }
        }
    }

    fn number(&mut self) -> Result<Json<'a>, String> {
        let rest = &self.text[self.at..];
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && !matches!(c, '-' | '+' | '.' | 'e' | 'E'))
            .unwrap_or(rest.len());
        let number = &rest[..end];
        if number.parse::<f64>().is_err() {
            return Err(self.wrong("a number"));
        }
        self.at += end;
        Ok(Json::Number(number))
    }

    fn string(&mut self) -> Result<Cow<'a, str>, String> {
        let rest = &self.text[self.at..];
        let mut escaped = false;
        let mut skip = false;
        for (i, b) in rest.bytes().enumerate().skip(1) {
            match b {
                _ if skip => skip = false,
                b'\\' => {
                    escaped = true;
                    skip = true;
                }
                b'"' => {
                    let token = &rest[..=i];
                    let text = if escaped {
                        Cow::Owned(
                            serde_json::from_str(token)
                                .map_err(|_| self.wrong("a string without broken escapes"))?,
                        )
                    } else {
                        Cow::Borrowed(&rest[1..i])
                    };
                    self.at += i + 1;
                    return Ok(text);
                }
                0..0x20 => return Err(self.wrong("a string without control characters")),
                _ => {}
            }
        }
        Err(self.wrong("the end of a string"))
    }
}
