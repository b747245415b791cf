//! Runs of letters, digits and what joins them: which are words, and which vary.

use super::bytes::{DIGIT, JOINER, LETTER, SMALL, SPACE, class};
use super::lexicon::{TOP_LEVEL, flags};
use super::scan::{CALLED, CAPITALS, DOTTED, Kind, Scanner, token};

/// Letters that are a hexadecimal number without a digit: no word has so many of a to f alone.
const HEX_LETTERS_MIN: usize = 8;

/// What was met in a run.
#[derive(Default)]
struct Run {
    /// Classes of its bytes.
    seen: u8,
    /// Dots inside.
    dots: usize,
    slashes: usize,
    /// Whether `@` was.
    at: bool,
    /// Whether commas without spaces were.
    list: bool,
}

impl Scanner<'_> {
    /// A run of letters, digits and what joins them.
    pub(super) fn chunk(&mut self) {
        if let Some(end) = self.hex_groups() {
            return self.push(Kind::Value, end);
        }
        let start = self.at;
        let mut run = Run::default();
        // `<5` is a number.
        let mut at = start + usize::from(matches!(self.text[start], b'<' | b'>'));
        while at < self.text.len() {
            let b = self.text[at];
            let c = class(b);
            if c & (LETTER | DIGIT) == 0 {
                let after = self.byte(at + 1);
                let inside = class(after) & (LETTER | DIGIT) != 0;
                match b {
                    b'.' if inside => run.dots += usize::from(at > start),
                    b'.' if class(after) & JOINER == 0 || after == b'.' => break,
                    b'/' | b'\\' => run.slashes += 1,
                    b'@' => run.at = true,
                    b',' if inside && at > start => run.list = true,
                    b'\'' if class(after) & LETTER != 0 && at > start => {}
                    b':' if self.is_scheme(start, at) => {
                        let end = self.address_end(at);
                        return self.push(Kind::Value, end);
                    }
                    _ if c & JOINER != 0 => {}
                    _ => break,
                }
            }
            run.seen |= c;
            at += 1;
        }
        // What is asked of a path belongs to it.
        if run.slashes > 0 && self.byte(at) == b'?' && self.text[start] == b'/' {
            at = self.address_end(at);
        }
        self.end_chunk(at, &run);
    }

    /// Makes a token of the run that ends at `end`.
    fn end_chunk(&mut self, end: usize, run: &Run) {
        let start = self.at;
        let text = &self.text[start..end];
        let (digits, letters) = (run.seen & DIGIT != 0, run.seen & LETTER != 0);
        let called = self.byte(end) == b'(';
        let hex = text.len() >= HEX_LETTERS_MIN && text.iter().all(u8::is_ascii_hexdigit);
        let rooted = matches!(text.first(), Some(b'/' | b'\\' | b'~' | b'.'));
        let path = run.slashes > 1 || (run.slashes == 1 && rooted);
        let varies = run.at || run.list || path || hex || (digits && !(called && letters));
        let host = run.dots > 0 && is_host(text);
        let mut made = token(Kind::Value, start, end);
        if !varies && !host {
            made.kind = Kind::Word;
            made.shape |= if run.dots > 0 { DOTTED } else { 0 };
            made.shape |= if called { CALLED } else { 0 };
            made.shape |= if run.seen & SMALL == 0 { CAPITALS } else { 0 };
        } else if digits && !letters && run.slashes == 0 && !run.list {
            made.kind = Kind::Number;
        }
        self.tokens.push(made);
        self.at = end;
    }

    /// The end of a hardware address or an IPv6 one that starts here: groups of hexadecimal
    /// digits between colons.
    fn hex_groups(&self) -> Option<usize> {
        let (mut at, mut colons, mut group, mut digits) = (self.at, 0, 0, false);
        loop {
            match self.byte(at) {
                b':' => {
                    colons += 1;
                    group = 0;
                }
                b if b.is_ascii_hexdigit() => {
                    digits |= b.is_ascii_digit();
                    group += 1;
                }
                b if class(b) & LETTER != 0 => return None,
                _ => break,
            }
            if group > 4 {
                return None;
            }
            at += 1;
        }
        (colons >= 3 && digits && group > 0).then_some(at)
    }

    /// Whether `start..colon` and what follows is `scheme://` or a drive (`C:\`).
    fn is_scheme(&self, start: usize, colon: usize) -> bool {
        let next = (self.byte(colon + 1), self.byte(colon + 2));
        next == (b'/', b'/') || (next.0 == b'\\' && colon == start + 1)
    }

    /// The end of an address or path that goes on at `at`.
    fn address_end(&self, at: usize) -> usize {
        let ends = |&b: &u8| {
            class(b) & SPACE != 0
                || matches!(b, b'"' | b'\'' | b'<' | b'>' | b')' | b']' | b'}' | b',' | b';' | b'|')
        };
        let mut end = at + self.text[at..].iter().take_while(|&b| !ends(b)).count();
        while end > at && matches!(self.text[end - 1], b'.' | b':') {
            end -= 1;
        }
        end
    }
}

/// Whether a word with a dot is the name of a host: small letters, and a known end.
fn is_host(word: &[u8]) -> bool {
    let last = word.iter().rposition(|&b| b == b'.').map_or(word, |dot| &word[dot + 1..]);
    word.iter().all(|b| !b.is_ascii_uppercase()) && flags(last) & TOP_LEVEL != 0
}
