//! Numbers as they are written, without what a double would lose: ids of twenty digits, amounts of
//! eighteen decimals.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use weir_pipeline::entity::{double_text, int_fits_double};

/// A double holds every number of so many digits.
const SAFE_DIGITS: usize = 15;

/// A number, by what holds it exactly.
#[derive(Debug, PartialEq)]
enum Number {
    Int(i64),
    /// Reads back as it was written but for zeros.
    Double(f64),
    /// Neither does: its text, without zeros that say nothing.
    Text(String),
}

impl Number {
    /// `None` if `text` is no number.
    fn parse(text: &str) -> Option<Self> {
        let named = ["NaN", "Infinity", "-Infinity"].contains(&text);
        if named {
            return text.parse().ok().map(Self::Double);
        }
        let written = Decimal::parse(text)?;
        if !text.contains(['.', 'e', 'E']) {
            let text = text.strip_prefix('+').unwrap_or(text);
            return Some(text.parse().map_or_else(|_| Self::Text(written.text(text)), Self::Int));
        }
        let double: f64 = text.parse().ok()?;
        let same = double.is_finite() && Decimal::parse(&format!("{double:e}"))? == written;
        Some(if same { Self::Double(double) } else { Self::Text(written.text(text)) })
    }

    fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Int(v) => v.to_string().into(),
            Self::Double(v) => double_text(*v).into(),
            Self::Text(text) => text.into(),
        }
    }
}

/// The value of a number: its digits without zeros around them, times ten to the `exponent`.
#[derive(Debug, PartialEq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Option<Self> {
        let negative = text.starts_with('-');
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?.into()),
            None => (unsigned, 0_i64),
        };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = [whole, fraction].concat();
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let kept = digits.trim_end_matches('0');
        if kept.is_empty() {
            return Some(Self { negative: false, digits: String::new(), exponent: 0 });
        }
        let exponent = exponent + (digits.len() - kept.len()) as i64 - fraction.len() as i64;
        Some(Self { negative, digits: kept.trim_start_matches('0').to_owned(), exponent })
    }

    /// As people write it; with an exponent only if `written` has one.
    fn text(&self, written: &str) -> String {
        let sign = if self.negative { "-" } else { "" };
        let zeros = |n: i64| "0".repeat(usize::try_from(n).unwrap_or_default());
        let length = self.digits.len() as i64;
        if written.contains(['e', 'E']) {
            return format!("{sign}{}e{}", self.digits, self.exponent);
        }
        match (self.exponent, length + self.exponent) {
            (exponent, _) if exponent >= 0 => format!("{sign}{}{}", self.digits, zeros(exponent)),
            (_, point) if point > 0 => {
                let (whole, fraction) = self.digits.split_at(usize::try_from(point).unwrap_or(0));
                format!("{sign}{whole}.{fraction}")
            }
            (_, point) => format!("{sign}0.{}{}", zeros(-point), self.digits),
        }
    }
}

/// A column of numbers: integers if all values are written as such and fit, else doubles if these
/// hold all values exactly, else text. So a value has one text as a key, whatever is beside it.
///
/// # Errors
/// At the first value that is no number.
pub(super) fn numbers(column: &StringArray) -> Result<ArrayRef, String> {
    let parse = |(row, text): (usize, Option<&str>)| {
        let Some(text) = text.map(str::trim).filter(|t| !t.is_empty()) else { return Ok(None) };
        let wrong = || format!("`{text}` in row {} is no number", row + 1);
        Number::parse(text).map(Some).ok_or_else(wrong)
    };
    let all: Vec<Option<Number>> =
        column.iter().enumerate().map(parse).collect::<Result<_, _>>()?;
    let ints = all.iter().map(|n| match n {
        None => Some(None),
        Some(Number::Int(v)) => Some(Some(*v)),
        Some(_) => None,
    });
    if let Some(ints) = ints.collect::<Option<Int64Array>>() {
        return Ok(Arc::new(ints));
    }
    let doubles = all.iter().map(|n| match n {
        None => Some(None),
        Some(Number::Int(v)) => int_fits_double(*v).then_some(Some(*v as f64)),
        Some(Number::Double(v)) => Some(Some(*v)),
        Some(Number::Text(_)) => None,
    });
    if let Some(doubles) = doubles.collect::<Option<Float64Array>>() {
        return Ok(Arc::new(doubles));
    }
    let texts = all.iter().map(|n| n.as_ref().map(Number::text));
    Ok(Arc::new(texts.collect::<StringArray>()))
}

/// JSON in which numbers that a parser would make inexact doubles are strings.
pub(super) fn exact_json(json: &[u8]) -> Cow<'_, [u8]> {
    let mut exact: Option<Vec<u8>> = None;
    // Up to where `exact` has it.
    let mut copied = 0;
    let mut at = 0;
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => at = string_end(json, at + 1),
            b'-' | b'0'..=b'9' => {
                let is_part = |b: &u8| matches!(b, b'0'..=b'9' | b'+' | b'-' | b'.' | b'e' | b'E');
                let length = json[at..].iter().take_while(|b| is_part(b)).count();
                let token = str::from_utf8(&json[at..at + length]).unwrap_or_default();
                let may_lose = length > SAFE_DIGITS || token.contains(['e', 'E']);
                if may_lose && let Some(Number::Text(text)) = Number::parse(token) {
                    let exact = exact.get_or_insert_default();
                    exact.extend_from_slice(&json[copied..at]);
                    exact.extend_from_slice(format!("\"{text}\"").as_bytes());
                    copied = at + length;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    match exact {
        None => json.into(),
        Some(mut exact) => {
            exact.extend_from_slice(&json[copied..]);
            exact.into()
        }
    }
}

/// Where the string ends whose text begins at `at`.
fn string_end(json: &[u8], mut at: usize) -> usize {
    while let Some(byte) = json.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    json.len()
}
