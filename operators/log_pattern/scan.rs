//! From a line to tokens: words, what certainly varies (numbers, addresses, paths, quoted texts,
//! values of `key=`), and punctuation. One walk over the bytes, no regular expression.

use super::bytes::{DIGIT, ENDS, JOINER, LETTER, SPACE, class};

/// Bytes of a line that are looked at; what follows is one parameter. Beyond the first few hundred
/// bytes a line is data, not wording.
pub(super) const LINE_BYTES_MAX: usize = 4096;

/// Tokens of a line that are looked at; what follows is one parameter.
pub(super) const TOKENS_MAX: usize = 192;

/// How far the closing quote or bracket of a value is looked for.
const CLOSING_MAX: usize = 1024;

/// What a token is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Wording.
    Word,
    /// A number alone, which a unit may follow.
    Number,
    /// Something that varies.
    Value,
    /// One byte of punctuation.
    Mark,
}

/// A part `start..end` of the line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) start: u32,
    pub(super) end: u32,
    /// Shape of a word: [`DOTTED`], [`CALLED`], [`CAPITALS`].
    pub(super) shape: u8,
}

/// A word with a dot inside: `java.util.List`.
pub(super) const DOTTED: u8 = 1;
/// A word right before `(`: the name of a function.
pub(super) const CALLED: u8 = 2;
/// A word without small letters: the name of a state.
pub(super) const CAPITALS: u8 = 4;

impl Token {
    pub(super) fn text<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        line.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Splits `line` into `tokens`, which is cleared.
pub(super) fn scan(line: &[u8], tokens: &mut Vec<Token>) {
    tokens.clear();
    let text = &line[..boundary(line, LINE_BYTES_MAX)];
    let mut scanner = Scanner { text, at: 0, message_end: usize::MAX, tokens };
    scanner.run();
    let at = scanner.at;
    if at < line.len() && line[at..].iter().any(|&b| class(b) & SPACE == 0) {
        tokens.push(token(Kind::Value, at, line.len()));
    }
}

/// The first end of a character at or behind `at`.
fn boundary(line: &[u8], at: usize) -> usize {
    let inside = line.iter().skip(at).take_while(|&&b| b & 0xc0 == 0x80).count();
    line.len().min(at + inside)
}

/// Whether a field of this name holds what a line says, when the line is a list of fields.
fn is_message(name: &[u8]) -> bool {
    matches!(name, b"msg" | b"message" | b"event" | b"error" | b"err" | b"log" | b"MESSAGE")
}

pub(super) fn token(kind: Kind, start: usize, end: usize) -> Token {
    Token { kind, start: start as u32, end: end as u32, shape: 0 }
}

/// Walks over a line.
pub(super) struct Scanner<'a> {
    pub(super) text: &'a [u8],
    pub(super) at: usize,
    /// Where the quoted message that it is in ends.
    message_end: usize,
    pub(super) tokens: &'a mut Vec<Token>,
}

impl Scanner<'_> {
    pub(super) fn byte(&self, at: usize) -> u8 {
        self.text.get(at).copied().unwrap_or(b' ')
    }

    fn run(&mut self) {
        while self.at < self.text.len() && self.tokens.len() < TOKENS_MAX {
            let (b, next) = (self.text[self.at], self.byte(self.at + 1));
            match b {
                // The first line says what happened; the others are its details.
                b'\n' if !self.tokens.is_empty() => return,
                _ if class(b) & SPACE != 0 => self.at += 1,
                _ if self.at == self.message_end => self.mark(),
                b'"' | b'`' => self.quoted(b),
                b'\'' => self.apostrophe(),
                b'=' if next == b'=' || next == b'>' => self.mark(),
                b'=' => self.assigned(),
                b'[' if next == b']' => self.empty(),
                b'{' if next == b'}' => self.empty(),
                b'(' if next == b')' && !self.is_inside(self.at) => self.empty(),
                b'[' | b'{' if self.is_inside(self.at) => self.contents(),
                b'/' if class(next) & SPACE != 0 => self.push(Kind::Value, self.at + 1),
                b'<' | b'>' if class(next) & DIGIT != 0 => self.chunk(),
                b'-' | b'*' | b'#' | b'.' | b'~' | b'+' | b'&' | b'/' | b'\\' | b'%' | b'@'
                | b'_' | b'^' | b'$'
                    if class(next) & (LETTER | DIGIT | JOINER) == 0 || next == b =>
                {
                    self.run_of(b);
                }
                _ if class(b) & (LETTER | DIGIT | JOINER) != 0 => self.chunk(),
                _ => self.mark(),
            }
        }
    }

    pub(super) fn push(&mut self, kind: Kind, end: usize) {
        self.tokens.push(token(kind, self.at, end));
        self.at = end;
    }

    fn mark(&mut self) {
        self.push(Kind::Mark, self.at + 1);
    }

    /// Bytes that repeat (`.....`, `====`) are one mark, however many.
    fn run_of(&mut self, b: u8) {
        let len = self.text[self.at..].iter().take_while(|&&c| c == b).count();
        let dots = b == b'.';
        // Leaders and ends of sentences are no wording.
        if dots {
            self.at += len;
        } else {
            self.push(Kind::Mark, self.at + len);
        }
    }

    /// `[]` and `{}` hold nothing where others hold something.
    fn empty(&mut self) {
        self.mark();
        self.push(Kind::Value, self.at);
        self.mark();
    }

    /// Whether the byte before `at` is of a word.
    fn is_inside(&self, at: usize) -> bool {
        at > 0 && class(self.text[at - 1]) & (LETTER | DIGIT) != 0
    }

    /// What a bracket right behind a word holds is one value: an index, or an object printed with
    /// its fields.
    fn contents(&mut self) {
        let end = self.value_end();
        let (open, close) = (self.at, end.saturating_sub(1));
        self.mark();
        if close > open && matches!(self.text[close], b']' | b'}') {
            self.push(Kind::Value, close);
            self.mark();
        }
    }

    /// The place behind the closing `quote` of the text that opens at `from`.
    fn closing(&self, from: usize, quote: u8) -> Option<usize> {
        let mut at = from + 1;
        let end = self.text.len().min(from + CLOSING_MAX);
        while at < end {
            match self.text[at] {
                b'\\' => at += 1,
                b'\n' => return None,
                b if b == quote => return Some(at + 1),
                _ => {}
            }
            at += 1;
        }
        None
    }

    fn quoted(&mut self, quote: u8) {
        match self.closing(self.at, quote) {
            None => self.mark(),
            // The key of a JSON object.
            Some(end) if quote == b'"' && self.byte(end) == b':' && self.is_key(end) => {
                let message = is_message(&self.text[self.at + 1..end - 1]);
                self.push(Kind::Word, end);
                self.mark();
                while self.byte(self.at) == b' ' && self.at < self.text.len() {
                    self.at += 1;
                }
                match self.byte(self.at) {
                    b'"' if message => self.message(),
                    b if class(b) & LETTER != 0 => {
                        let end = self.value_end();
                        self.push(Kind::Value, end);
                    }
                    _ => {}
                }
            }
            Some(end) => self.push(Kind::Value, end),
        }
    }

    /// The text in quotes that starts here is wording.
    fn message(&mut self) {
        if let Some(end) = self.closing(self.at, self.text[self.at]) {
            self.mark();
            self.message_end = end - 1;
        }
    }

    /// Whether the quoted text up to `end` reads like a name.
    fn is_key(&self, end: usize) -> bool {
        let name = &self.text[self.at + 1..end - 1];
        !name.is_empty() && name.iter().all(|&b| class(b) & (LETTER | JOINER) != 0)
    }

    fn apostrophe(&mut self) {
        let before = if self.at == 0 { b' ' } else { self.text[self.at - 1] };
        let opens = class(before) & (LETTER | DIGIT) == 0;
        match self.closing(self.at, b'\'').filter(|_| opens) {
            Some(end) if class(self.byte(end)) & (LETTER | DIGIT) == 0 => {
                self.push(Kind::Value, end);
            }
            _ => self.at += 1,
        }
    }

    /// What stands behind `=` is a value whatever it looks like, also if it is empty.
    fn assigned(&mut self) {
        let spaced = self.at > 0 && class(self.text[self.at - 1]) & SPACE != 0;
        let message = self.tokens.last().is_some_and(|t| is_message(t.text(self.text)));
        self.mark();
        if message && self.byte(self.at) == b'"' {
            return self.message();
        }
        if spaced && class(self.byte(self.at)) & SPACE != 0 {
            let spaces = self.text[self.at..].iter().take_while(|&&b| b == b' ').count();
            self.at += spaces;
        }
        let end = self.value_end();
        self.push(Kind::Value, end);
    }

    /// Where the value that starts here ends: quotes and brackets are kept together.
    fn value_end(&self) -> usize {
        let open = self.byte(self.at);
        if let b'"' | b'\'' = open
            && let Some(end) = self.closing(self.at, open)
        {
            return end;
        }
        let mut depth = 0;
        let stop = self.text.len().min(self.at + CLOSING_MAX);
        let mut at = self.at;
        while at < stop {
            let b = self.text[at];
            match b {
                b'\n' => break,
                b'[' | b'{' | b'(' | b'<' => depth += 1,
                b']' | b'}' | b')' | b'>' if depth > 0 => depth -= 1,
                _ if depth == 0 && class(b) & ENDS != 0 => break,
                _ => {}
            }
            at += 1;
        }
        if depth == 0 {
            return boundary(self.text, at);
        }
        // A bracket that does not close: up to the next space.
        let plain = self.text[self.at..stop].iter();
        boundary(self.text, self.at + plain.take_while(|&&b| class(b) & ENDS == 0).count())
    }
}
