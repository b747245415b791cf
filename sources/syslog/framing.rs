//! Messages out of a byte stream (RFC 6587): octet counting and newlines, told apart for each
//! message by how it starts.
//!
//! `<length> <` begins a counted message; anything else ends at a newline or a NUL. A message past
//! the limit is cut, the rest of it skipped, and the stream goes on.

use bytes::{Buf, BytesMut};

/// Most digits of an octet count: 9,999,999,999 bytes are cut like any other.
const DIGITS_MAX: usize = 10;

/// Cuts a stream into messages.
#[derive(Debug)]
pub(super) struct Framing {
    limit: usize,
    skip: Skip,
    /// How far the newline of the first message has been looked for.
    searched: usize,
}

/// What is left of a message that was cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Skip {
    None,
    Bytes(u64),
    Line,
}

/// How the first message in the buffer is framed.
enum Start {
    Counted {
        header: usize,
        length: u64,
    },
    Line,
    /// More bytes will tell.
    Unknown,
}

impl Framing {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, skip: Skip::None, searched: 0 }
    }

    /// Another limit, for the messages that follow.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Takes one whole message from the front of `buffer` and hands it to `take` with whether it
    /// was cut; false if there is none yet.
    pub(super) fn next(&mut self, buffer: &mut BytesMut, take: impl FnOnce(&[u8], bool)) -> bool {
        loop {
            if !self.skipped(buffer) {
                return false;
            }
            match start(buffer) {
                Start::Unknown => return false,
                Start::Counted { header, length } => {
                    let wanted = length.min(self.limit as u64) as usize;
                    let Some(message) = buffer.get(header..header + wanted) else { return false };
                    let cut = length > wanted as u64;
                    take(message, cut);
                    buffer.advance(header + wanted);
                    if cut {
                        self.skip = Skip::Bytes(length - wanted as u64);
                    }
                    return true;
                }
                Start::Line => {
                    let end = |b: &u8| matches!(b, b'\n' | 0);
                    let unseen = buffer.get(self.searched..).unwrap_or_default();
                    let end = unseen.iter().position(end).map(|at| self.searched + at);
                    let Some(length) = end.or((buffer.len() > self.limit).then_some(buffer.len()))
                    else {
                        self.searched = buffer.len();
                        return false;
                    };
                    self.searched = 0;
                    let kept = length.min(self.limit);
                    if length == 0 {
                        buffer.advance(1);
                        continue; // an empty line, or the newline behind a counted message
                    }
                    take(&buffer[..kept], kept < length);
                    match end {
                        Some(end) => buffer.advance(end + 1),
                        None => {
                            buffer.clear();
                            self.skip = Skip::Line;
                        }
                    }
                    return true;
                }
            }
        }
    }

    /// What is left at the end of the stream: a line without its newline, or a counted message
    /// that broke off, which counts as cut.
    pub(super) fn rest(&mut self, buffer: &mut BytesMut, take: impl FnOnce(&[u8], bool)) {
        if !self.skipped(buffer) {
            return;
        }
        let (from, broken) = match start(buffer) {
            Start::Counted { header, .. } => (header, true),
            Start::Line | Start::Unknown => (0, false),
        };
        let rest = buffer.get(from..).unwrap_or_default();
        let kept = rest.len().min(self.limit);
        if kept > 0 {
            take(&rest[..kept], broken || kept < rest.len());
        }
        buffer.clear();
    }

    /// Whether the rest of a cut message is behind us.
    fn skipped(&mut self, buffer: &mut BytesMut) -> bool {
        match self.skip {
            Skip::None => {}
            Skip::Bytes(n) => {
                let now = n.min(buffer.len() as u64);
                buffer.advance(now as usize);
                if now < n {
                    self.skip = Skip::Bytes(n - now);
                    return false;
                }
            }
            Skip::Line => match buffer.iter().position(|b| matches!(b, b'\n' | 0)) {
                Some(end) => buffer.advance(end + 1),
                None => {
                    buffer.clear();
                    return false;
                }
            },
        }
        self.skip = Skip::None;
        true
    }
}

fn start(buffer: &[u8]) -> Start {
    let digits = buffer.iter().take(DIGITS_MAX + 1).take_while(|b| b.is_ascii_digit()).count();
    if buffer.is_empty() {
        return Start::Unknown;
    }
    if digits == 0 || digits > DIGITS_MAX || buffer[0] == b'0' {
        return Start::Line;
    }
    match (buffer.get(digits), buffer.get(digits + 1)) {
        (None, _) | (Some(b' '), None) => Start::Unknown,
        (Some(b' '), Some(b'<')) => {
            let number = |n: u64, b: &u8| n * 10 + u64::from(b - b'0');
            let length = buffer[..digits].iter().fold(0, number);
            Start::Counted { header: digits + 1, length }
        }
        _ => Start::Line,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    /// The messages of `stream`, which comes in parts of `step` bytes; `~` marks the cut ones.
    fn split(stream: &[u8], limit: usize, step: usize) -> Vec<String> {
        let mut framing = Framing::new(limit);
        let mut buffer = BytesMut::new();
        let mut out = Vec::new();
        for part in stream.chunks(step) {
            buffer.extend_from_slice(part);
            let mut take = |m: &[u8], cut: bool| {
                let cut = if cut { "~" } else { "" };
                out.push(format!("{}{cut}", String::from_utf8_lossy(m)));
            };
            while framing.next(&mut buffer, &mut take) {}
        }
        framing.rest(&mut buffer, |m, cut| {
            let cut = if cut { "~" } else { "" };
            out.push(format!("{}{cut}", String::from_utf8_lossy(m)));
        });
        out
    }

    #[track_caller]
    fn check(stream: &str, expect: &[&str]) {
        for step in [1, 2, 3, 5, 1000] {
            assert_eq!(split(stream.as_bytes(), 10, step), expect, "parts of {step} bytes");
        }
    }

    #[test]
    fn both_framings() {
        check("<1>a\n<2>b\r\n", &["<1>a", "<2>b\r"]);
        check("4 <1>a5 <2>bc", &["<1>a", "<2>bc"]);
        check("5 <1>a\n<2>b\n4 <3>c\n\n<4>d", &["<1>a\n", "<2>b", "<3>c", "<4>d"]);
        check("<1>a\0<2>b\0\n", &["<1>a", "<2>b"]);
        check("12 monkeys\n2024-01\n", &["12 monkeys", "2024-01"]);
        check("0 <x\n12345678901 <1>\n", &["0 <x", "1234567890~"]);
        check("", &[]);
        check("7", &["7"]);
        check("7 ", &["7 "]);
    }

    #[test]
    fn long_messages_are_cut() {
        check("13 <1>234567890x<2>b\n", &["<1>2345678~", "<2>b"]);
        check("20 <1>234567890123456784 <2>b", &["<1>2345678~", "<2>b"]);
        check("<1>23456789\n<2>b\n", &["<1>2345678~", "<2>b"]);
        check("<1>2345678\n<2>b\n", &["<1>2345678", "<2>b"]);
        check("9999999999 <1>23456789", &["<1>2345678~"]);
        // Broken off.
        check("9 <1>234", &["<1>234~"]);
    }

    proptest! {
        #[test]
        fn parts_do_not_matter(
            stream in prop::collection::vec(
                prop::sample::select(b"<>0123 a\n\0".to_vec()), 0..200),
            step in 1_usize..20,
        ) {
            prop_assert_eq!(split(&stream, 10, step), split(&stream, 10, 1000));
        }
    }
}
