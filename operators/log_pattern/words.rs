//! What words of a line do where they stand: which are names, parts of dates, values.

use super::lexicon::{DAY, GRAMMAR, LITERAL, MONTH, NAMES, NOUN, PREPOSITION, UNIT, ZONE, flags};
use super::scan::{CALLED, CAPITALS, DOTTED, Kind, Token};

/// Endings of verbs and of what is made of them.
const ENDINGS: [&[u8]; 9] =
    [b"ed", b"ing", b"tion", b"sion", b"able", b"ible", b"ful", b"ly", b"ment"];

/// Shortest word whose ending says something.
const ENDING_WORD_MIN: usize = 5;

/// Whether `word` is wording by itself.
pub(super) fn is_grammar(word: &[u8]) -> bool {
    let ends = word.len() >= ENDING_WORD_MIN && ENDINGS.iter().any(|e| word.ends_with(e));
    ends || flags(word) & GRAMMAR != 0
}

/// Whether `word` is a unit of time or size: it belongs to the number before it.
pub(super) fn is_unit(word: &[u8]) -> bool {
    flags(word) & UNIT != 0
}

/// Whether the word at `at` stands where names stand, so that another one there means the same.
pub(super) fn is_name(line: &[u8], tokens: &[Token], at: usize) -> bool {
    let token = tokens[at];
    if token.kind != Kind::Word || token.shape & CALLED != 0 {
        return false;
    }
    let word = token.text(line);
    if token.shape & DOTTED != 0 {
        // What opens a phrase and stands before `:` is the name of a setting.
        let opens = at == 0 || tokens[at - 1].kind == Kind::Mark;
        let is_key = tokens.get(at + 1).is_some_and(|t| matches!(t.text(line), b":" | b"="));
        let is_fault = word.ends_with(b"Exception") || word.ends_with(b"Error");
        return !(is_fault || opens && is_key);
    }
    if at == 0 || !ends_here(line, tokens, at) {
        return false;
    }
    let mut before = at - 1;
    if is_argument(line, tokens, at) {
        return word.len() > 1;
    }
    let spoken = tokens[before].kind == Kind::Mark && tokens[before].text(line) == b":";
    if spoken {
        if before == 0 {
            return false;
        }
        before -= 1;
    }
    if tokens[before].kind != Kind::Word {
        return false;
    }
    let announced = flags(tokens[before].text(line));
    if announced & NAMES != 0 {
        let long = word.len() >= ENDING_WORD_MIN;
        let verb = long && (word.ends_with(b"ed") || word.ends_with(b"ing"));
        return !verb && flags(word) & GRAMMAR == 0;
    }
    // Before a value stands what kind of thing it is: `in year 5`.
    let labels = tokens.get(at + 1).is_some_and(|t| matches!(t.kind, Kind::Number | Kind::Value));
    announced & PREPOSITION != 0
        && !labels
        && !spoken
        && token.shape & CAPITALS == 0
        && !is_grammar(word)
        && flags(word) & NOUN == 0
}

/// Whether the word at `at` is the only argument of a function: `chdir(home)`.
fn is_argument(line: &[u8], tokens: &[Token], at: usize) -> bool {
    let mark = |at: usize, mark: &[u8]| tokens.get(at).is_some_and(|t| t.text(line) == mark);
    at > 1 && mark(at - 1, b"(") && mark(at + 1, b")") && tokens[at - 2].shape & CALLED != 0
}

/// Whether the word at `at` belongs to a date: `Tue Aug 09 10:08:23 PDT 2005`.
pub(super) fn is_date(line: &[u8], tokens: &[Token], at: usize) -> bool {
    let word = tokens[at].text(line);
    if word.len() > 4 || !word.first().is_some_and(u8::is_ascii_uppercase) {
        return false;
    }
    let word = flags(word);
    if word & (MONTH | DAY | ZONE) == 0 {
        return false;
    }
    let number =
        |t: Option<&Token>| t.is_some_and(|t| matches!(t.kind, Kind::Number | Kind::Value));
    let next = tokens.get(at + 1);
    let month = |t: Option<&Token>| t.is_some_and(|t| flags(t.text(line)) & MONTH != 0);
    let comma = next.is_some_and(|t| t.text(line) == b",");
    let after = if comma { tokens.get(at + 2) } else { next };
    let before = number(at.checked_sub(1).map(|at| &tokens[at]));
    (word & MONTH != 0 && (number(next) || before))
        || (word & DAY != 0 && (number(after) || month(after)))
        || (word & ZONE != 0 && before)
}

/// Whether the word at `at` is a value that a setting has: `enabled: true`, `(null)`.
pub(super) fn is_literal(line: &[u8], tokens: &[Token], at: usize) -> bool {
    at > 0
        && matches!(tokens[at - 1].text(line), b":" | b"(")
        && flags(tokens[at].text(line)) & LITERAL != 0
}

/// Whether a phrase can end at the word at `at`.
fn ends_here(line: &[u8], tokens: &[Token], at: usize) -> bool {
    let Some(next) = tokens.get(at + 1) else { return true };
    match next.kind {
        Kind::Number | Kind::Value => true,
        Kind::Mark => next.text(line) != b"(" && next.text(line) != b":",
        Kind::Word => is_grammar(next.text(line)),
    }
}
