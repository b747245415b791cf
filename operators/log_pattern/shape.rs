//! The shape of a line: its wording with a hole for each thing that varies. Lines of one shape are
//! of one pattern; the shape depends on nothing but the line.

use xxhash_rust::xxh3::xxh3_64;

use super::scan::{Kind, Token, scan};
use super::words;

/// Stands for a hole in the text of a shape; no log has it otherwise, and if one has, no harm.
pub(super) const HOLE: u8 = 1;

/// Stands for a word that turned out to vary.
pub(super) const WIDE: u8 = 2;

/// What a piece of a shape is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// Part of the wording.
    Fixed,
    /// A word where names stand: part of the template until another one comes.
    Name,
    /// Something that varies.
    Hole,
}

/// A part of a line.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    pub(super) piece: Piece,
    pub(super) word: bool,
    pub(super) start: u32,
    pub(super) end: u32,
}

impl Part {
    pub(super) fn text<'a>(&self, line: &'a [u8]) -> &'a [u8] {
        line.get(self.start as usize..self.end as usize).unwrap_or_default()
    }
}

/// Room that is used again from line to line.
#[derive(Default)]
pub(super) struct Shape {
    tokens: Vec<Token>,
    pub(super) parts: Vec<Part>,
    /// Wording and holes, each behind a separator.
    pub(super) text: Vec<u8>,
}

/// Marks between two values that make one of them: lists, times, addresses with a port.
fn joins(mark: &[u8]) -> bool {
    matches!(mark, b"," | b":" | b"/" | b"-" | b"." | b"|" | b"&" | b"+")
}

impl Shape {
    /// The hash of the shape of `line`; `parts` and `text` tell it.
    pub(super) fn of(&mut self, line: &[u8]) -> u64 {
        scan(line, &mut self.tokens);
        self.parts.clear();
        let mut at = 0;
        while at < self.tokens.len() {
            let token = self.tokens[at];
            let piece = match token.kind {
                Kind::Number | Kind::Value => Piece::Hole,
                Kind::Word if words::is_date(line, &self.tokens, at) => Piece::Hole,
                Kind::Word if words::is_literal(line, &self.tokens, at) => Piece::Hole,
                Kind::Word if words::is_name(line, &self.tokens, at) => Piece::Name,
                _ => Piece::Fixed,
            };
            let mut end = token.end;
            // A unit belongs to its number.
            if token.kind == Kind::Number
                && let Some(next) = self.tokens.get(at + 1)
                && next.kind == Kind::Word
                && words::is_unit(next.text(line))
            {
                end = next.end;
                at += 1;
            }
            self.push(
                line,
                Part { piece, word: token.kind == Kind::Word, start: token.start, end },
            );
            at += 1;
        }
        self.write(line);
        xxh3_64(&self.text)
    }

    fn push(&mut self, line: &[u8], part: Part) {
        if !part.word && part.piece == Piece::Fixed && matches!(part.text(line), b"]" | b")" | b"}")
        {
            self.fold_list(line);
        }
        if part.piece != Piece::Fixed {
            let mut last = self.parts.len();
            while last > 0 && last + 2 > self.parts.len() {
                let before = &self.parts[last - 1];
                if before.word || before.piece != Piece::Fixed || !joins(before.text(line)) {
                    break;
                }
                last -= 1;
            }
            if last > 0 && self.parts[last - 1].piece != Piece::Fixed {
                let before = &mut self.parts[last - 1];
                before.end = part.end;
                before.piece = Piece::Hole;
                self.parts.truncate(last);
                return;
            }
        }
        self.parts.push(part);
    }

    /// Makes one hole of a list of single words in brackets that is about to be closed: lists
    /// differ in length.
    fn fold_list(&mut self, line: &[u8]) {
        let mark = |part: &Part, marks: &[&[u8]]| {
            !part.word && part.piece == Piece::Fixed && marks.contains(&part.text(line))
        };
        let mut first = self.parts.len();
        let mut items = 0;
        while first > 0 {
            let (item, separator) = (first - 1, first.checked_sub(2));
            if !self.parts[item].word && self.parts[item].piece == Piece::Fixed {
                return;
            }
            first = item;
            items += 1;
            match separator.map(|at| &self.parts[at]) {
                Some(part) if mark(part, &[b","]) => first -= 1,
                Some(part) if mark(part, &[b"[", b"(", b"{"]) => break,
                _ => return,
            }
        }
        if items > 1 {
            let end = self.parts.last().map_or(0, |part| part.end);
            self.parts.truncate(first + 1);
            self.parts[first] = Part { piece: Piece::Hole, word: false, end, ..self.parts[first] };
        }
    }

    /// The hash of its text with [`WIDE`] for the words at `mask`, and that text.
    pub(super) fn widened(&self, line: &[u8], mask: u64, text: &mut Vec<u8>) -> u64 {
        text.clear();
        for (at, part) in self.parts.iter().enumerate() {
            match part.piece {
                Piece::Fixed if at < 64 && mask >> at & 1 == 1 => text.push(WIDE),
                Piece::Fixed => text.extend_from_slice(part.text(line)),
                _ => text.push(HOLE),
            }
            text.push(0);
        }
        xxh3_64(text)
    }

    fn write(&mut self, line: &[u8]) {
        self.text.clear();
        for part in &self.parts {
            if part.piece == Piece::Fixed {
                self.text.extend_from_slice(part.text(line));
            } else {
                self.text.push(HOLE);
            }
            self.text.push(0);
        }
    }
}
