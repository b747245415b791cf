//! One syslog message: RFC 5424, RFC 3164, and what real senders make of it.
//!
//! Parsing never fails: what is not understood is body. Header fields that are understood leave
//! the body.

use std::borrow::Cow;

use super::time::{self, Written};

/// Highest priority value: facility 23, severity 7.
const PRI_MAX: u32 = 191;

/// What a message says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Message<'a> {
    /// Facility times eight plus severity.
    pub(super) pri: Option<u8>,
    /// RFC 5424 version.
    pub(super) version: Option<u16>,
    pub(super) time: Option<Written>,
    /// The time as it stands there.
    pub(super) time_text: &'a str,
    pub(super) hostname: Option<&'a str>,
    pub(super) app: Option<&'a str>,
    pub(super) procid: Option<&'a str>,
    pub(super) msgid: Option<&'a str>,
    /// Number that Cisco devices put in front.
    pub(super) sequence: Option<&'a str>,
    pub(super) data: Vec<Element<'a>>,
    /// `None` where RFC 5424 says that there is none.
    pub(super) body: Option<&'a str>,
}

/// A structured data element.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Element<'a> {
    pub(super) id: &'a str,
    pub(super) params: Vec<(&'a str, Cow<'a, str>)>,
}

/// Understands as much of `line` as possible.
pub(super) fn parse(line: &str) -> Message<'_> {
    let line = line.trim_end_matches(['\n', '\r', '\0']);
    let line = line.strip_prefix('\u{feff}').unwrap_or(line);
    let (pri, rest) = match pri(line) {
        Some((pri, rest)) => (Some(pri), rest),
        None => (None, line),
    };
    rfc5424(pri, rest).unwrap_or_else(|| rfc3164(pri, rest))
}

fn pri(line: &str) -> Option<(u8, &str)> {
    let (number, rest) = line.strip_prefix('<')?.split_once('>')?;
    let digits = (1..=3).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_digit());
    let value: u32 = digits.then(|| number.parse().ok())??;
    (value <= PRI_MAX).then_some((value as u8, rest))
}

/// A word, `-` as nothing, and what follows the blank behind it.
fn field(text: &str) -> Option<(Option<&str>, &str)> {
    let (word, rest) = text.split_once(' ')?;
    (!word.is_empty()).then_some(((word != "-").then_some(word), rest))
}

/// RFC 5424, section 6. `None` if the header is not one.
fn rfc5424(pri: Option<u8>, text: &str) -> Option<Message<'_>> {
    let (version, rest) = text.split_once(' ')?;
    let digits = (1..=2).contains(&version.len()) && version.bytes().all(|b| b.is_ascii_digit());
    let version = digits.then(|| version.parse().ok())??;
    if version == 0 {
        return None;
    }
    let (time, rest) = field(rest)?;
    let time_text = time.unwrap_or_default();
    let time = match time {
        None => None,
        Some(text) => match time::iso(text)? {
            (time, "") => Some(time),
            _ => return None,
        },
    };
    let (hostname, rest) = field(rest)?;
    let (app, rest) = field(rest)?;
    let (procid, rest) = field(rest)?;
    // Some senders end here, or behind the message id.
    let (msgid, rest) = field(rest).unwrap_or((Some(rest).filter(|r| *r != "-"), "-"));
    let (data, rest) = structured_data(rest).unwrap_or((Vec::new(), Some(rest)));
    let body = rest.map(|body| body.strip_prefix('\u{feff}').unwrap_or(body));
    let (version, sequence) = (Some(version), None);
    Some(Message {
        pri,
        version,
        time,
        time_text,
        hostname,
        app,
        procid,
        msgid,
        sequence,
        data,
        body,
    })
}

/// Structured data and the message behind it. `None` if it is not well-formed: then all of it is
/// message.
#[allow(clippy::type_complexity)]
fn structured_data(text: &str) -> Option<(Vec<Element<'_>>, Option<&str>)> {
    let mut elements = Vec::new();
    let mut rest = match text.strip_prefix('-') {
        Some(rest) => rest,
        None => {
            let mut rest = text;
            while let Some(after) = rest.strip_prefix('[') {
                let (element, after) = element(after)?;
                elements.push(element);
                rest = after;
            }
            if elements.is_empty() {
                return None;
            }
            rest
        }
    };
    if rest.is_empty() {
        return Some((elements, None));
    }
    rest = rest.strip_prefix(' ')?;
    Some((elements, Some(rest)))
}

/// What stands between brackets.
fn element(text: &str) -> Option<(Element<'_>, &str)> {
    let end = text.find([' ', ']', '"', '='])?;
    let (id, mut rest) = text.split_at(end);
    if id.is_empty() {
        return None;
    }
    let mut params = Vec::new();
    loop {
        rest = rest.trim_start_matches(' ');
        if let Some(after) = rest.strip_prefix(']') {
            return Some((Element { id, params }, after));
        }
        let (name, after) = rest.split_once('=')?;
        if name.is_empty() || name.contains([' ', ']', '"']) {
            return None;
        }
        let (value, after) = value(after.strip_prefix('"')?)?;
        params.push((name, value));
        rest = after;
    }
}

/// A parameter value up to its quote; `\"`, `\\` and `\]` are escapes, any other backslash is
/// itself (section 6.3.3).
fn value(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text.as_bytes()[end] == b'"' {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut out = text[..end].to_owned();
    let mut chars = text[end..].char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Cow::Owned(out), &text[end + at + 1..])),
            '\\' => match chars.next()?.1 {
                c @ ('"' | '\\' | ']') => out.push(c),
                c => out.extend(['\\', c]),
            },
            c => out.push(c),
        }
    }
    None
}

/// RFC 3164, section 4, and its variants.
fn rfc3164(pri: Option<u8>, text: &str) -> Message<'_> {
    let mut message = Message { pri, ..Message::default() };
    let mut rest = text.trim_start_matches(' ');
    // Cisco: `<189>42: router1: *Mar  1 18:46:11.123 UTC: %SYS-5-CONFIG_I: ...`
    if pri.is_some()
        && let Some((sequence, after)) = rest.split_once(": ")
        && (1..=20).contains(&sequence.len())
        && sequence.bytes().all(|b| b.is_ascii_digit())
    {
        message.sequence = Some(sequence);
        rest = after.trim_start_matches(' ');
    }
    let mut from = rest;
    let mut found = timestamp(rest);
    if found.is_none()
        && let Some((host, after)) = rest.split_once(": ")
        && is_host(host)
        && let Some(behind) = timestamp(after.trim_start_matches(' '))
    {
        message.hostname = Some(host);
        from = after.trim_start_matches(' ');
        found = Some(behind);
    }
    let Some((time, after)) = found else {
        // Without a time only `name[pid]:` is plain enough to be a tag.
        if let Some((app, Some(pid), body)) = tag(rest) {
            (message.app, message.procid, rest) = (Some(app), Some(pid), body);
        }
        message.body = Some(rest);
        return message;
    };
    message.time = Some(time);
    message.time_text = &from[..from.len() - after.len()];
    let after = after.strip_prefix(':').unwrap_or(after);
    rest = after.trim_start_matches([' ', '\t']);
    if message.hostname.is_none()
        && tag(rest).is_none()
        && let Some((host, after)) = rest.split_once(' ')
        && is_host(host)
    {
        message.hostname = Some(host);
        rest = after.trim_start_matches(' ');
    }
    // Cisco ASA writes `host : %ASA-...`.
    rest = rest.strip_prefix(": ").filter(|r| r.starts_with('%')).unwrap_or(rest);
    if let Some(mnemonic) = rest.strip_prefix('%') {
        // `%FACILITY-SEVERITY-MNEMONIC: text` stays in the body, as people search for it.
        let end = mnemonic.find(':').filter(|end| !mnemonic[..*end].contains(' '));
        message.msgid = end.map(|end| &mnemonic[..end]).filter(|id| !id.is_empty());
    } else if let Some((app, pid, body)) = tag(rest) {
        (message.app, message.procid, rest) = (Some(app), pid, body);
    }
    message.body = Some(rest);
    message
}

/// A time at the start, which Cisco devices mark with `*` or `.` when their clock is not set.
fn timestamp(text: &str) -> Option<(Written, &str)> {
    let text = text.strip_prefix(['*', '.']).unwrap_or(text);
    time::bsd(text).or_else(|| time::iso(text))
}

/// Whether `word` may be a host name or address.
fn is_host(word: &str) -> bool {
    let good = |b: u8| b.is_ascii_alphanumeric() || b"._-:@%/".contains(&b) || b >= 0x80;
    (1..=255).contains(&word.len())
        && word.bytes().all(good)
        && !word.ends_with(':')
        && !word.starts_with('%')
}

/// `name: `, `name[pid]: `, `name[pid] `: name, process id and what follows.
fn tag(text: &str) -> Option<(&str, Option<&str>, &str)> {
    /// RFC 3164 says 32; RFC 5424 48; systemd units are longer.
    const NAME_BYTES_MAX: usize = 128;
    let end = text.find([' ', '[', ':'])?;
    let (name, rest) = text.split_at(end);
    let first = name.bytes().next()?;
    if name.len() > NAME_BYTES_MAX || !(first.is_ascii_alphanumeric() || b"_(/.-".contains(&first))
    {
        return None;
    }
    let (pid, rest) = match rest.strip_prefix('[') {
        None => (None, rest),
        Some(inner) => {
            let (pid, rest) = inner.split_once(']')?;
            if pid.len() > NAME_BYTES_MAX || pid.contains([' ', '[']) {
                return None;
            }
            (Some(pid).filter(|p| !p.is_empty()), rest)
        }
    };
    let body = match rest.strip_prefix(':') {
        // `host:port`, `a::b` and the like are no tags.
        Some(body) if body.is_empty() || body.starts_with([' ', '\t']) => body,
        None if pid.is_some() && (rest.is_empty() || rest.starts_with(' ')) => rest,
        // `name[pid]:text`
        Some(body) if pid.is_some() => body,
        _ => return None,
    };
    Some((name, pid, body.strip_prefix(' ').unwrap_or(body)))
}

#[cfg(test)]
mod tests;
