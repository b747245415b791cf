//! Tokens of text, and `has_token(text, token)`: whether a text has a whole word.
//!
//! A token is the longest run of letters (of any script: Unicode's `Alphabetic`), digits `0` to `9`
//! and underscores, much as in VictoriaLogs.
//!
//! `has_token` (also `hasToken`, as ClickHouse calls it) compares exactly,
//! `has_token_case_insensitive` (`hasTokenCaseInsensitive`) without regard to case. A NULL text
//! gives NULL; a constant token that is none is an error.

use std::ops::Range;
use std::sync::Arc;

use datafusion::arrow::array::StringArray;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, BooleanBufferBuilder};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, FieldRef};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use memchr::memmem::Finder;

/// Name of the function that compares exactly.
pub const HAS_TOKEN: &str = "has_token";
/// Name of the function that does not regard case.
pub const HAS_TOKEN_CASE_INSENSITIVE: &str = "has_token_case_insensitive";

/// The functions.
pub(crate) fn functions() -> Vec<Arc<ScalarUDF>> {
    // SQL makes the names of functions small.
    [(HAS_TOKEN, "hastoken", false), (HAS_TOKEN_CASE_INSENSITIVE, "hastokencaseinsensitive", true)]
        .map(|(name, alias, any_case)| {
            let signature = Signature::user_defined(Volatility::Immutable);
            Arc::new(ScalarUDF::from(HasToken {
                name,
                aliases: [alias.into()],
                any_case,
                signature,
            }))
        })
        .into()
}

/// Whether tokens consist of it.
pub fn is_token_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || (!c.is_ascii() && c.is_alphabetic())
}

/// Where the tokens of `text` stand, in order.
pub fn tokens(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut rest = text.char_indices();
    std::iter::from_fn(move || {
        let (start, _) = rest.find(|(_, c)| is_token_char(*c))?;
        let end = rest.find(|(_, c)| !is_token_char(*c)).map_or(text.len(), |(end, _)| end);
        Some(start..end)
    })
}

/// Whether all of `text` is one token.
pub fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_char)
}

/// The same for all characters that differ in case alone (simple case folding), among others.
pub fn fold(c: char) -> impl Iterator<Item = char> {
    // Up and down again, since some letters have several small forms; down first, since the upper
    // form of some has another small form than themselves.
    c.to_lowercase().flat_map(char::to_uppercase).flat_map(char::to_lowercase)
}

fn same_in_any_case(a: &str, b: &str) -> bool {
    a.eq_ignore_ascii_case(b)
        || (!(a.is_ascii() && b.is_ascii())
            && a.chars().flat_map(fold).eq(b.chars().flat_map(fold)))
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct HasToken {
    name: &'static str,
    aliases: [String; 1],
    any_case: bool,
    signature: Signature,
}

impl HasToken {
    fn proved<'a>(&self, token: &'a str) -> Result<&'a str, String> {
        match is_token(token) {
            true => Ok(token),
            false => Err(format!(
                "{}: `{token}` is not one token: only letters, digits and _ are in one; ask for \
                 each token of it, or use LIKE",
                self.name
            )),
        }
    }

    fn one(&self, text: &str, token: &str) -> bool {
        tokens(text).any(|at| match self.any_case {
            true => same_in_any_case(&text[at], token),
            false => &text[at] == token,
        })
    }
}

impl ScalarUDFImpl for HasToken {
    fn name(&self) -> &str {
        self.name
    }

    fn aliases(&self) -> &[String] {
        &self.aliases
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        if let Some(Some(token)) = args.scalar_arguments.get(1)
            && let Some(Some(token)) = token.try_as_str()
            && let Err(why) = self.proved(token)
        {
            return plan_err!("{why}");
        }
        Ok(Arc::new(Field::new(self.name, DataType::Boolean, true)))
    }

    fn coerce_types(&self, types: &[DataType]) -> Result<Vec<DataType>> {
        let text = |t: &DataType| {
            matches!(t, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null)
        };
        match types {
            [of, token] if text(of) && text(token) => Ok(vec![DataType::Utf8, DataType::Utf8]),
            _ => plan_err!("{} takes a text and a token", self.name),
        }
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let [texts, token] = args.args.as_slice() else {
            return exec_err!("{} takes a text and a token", self.name);
        };
        let scalar = matches!(texts, ColumnarValue::Scalar(_));
        let found = match token {
            ColumnarValue::Scalar(token) => {
                let texts = cast(&texts.to_array(if scalar { 1 } else { rows })?, &DataType::Utf8)?;
                match token.try_as_str().flatten() {
                    None => BooleanArray::new_null(texts.len()),
                    Some(token) => match self.proved(token) {
                        Ok(token) => self.constant(texts.as_string(), token),
                        Err(why) => return exec_err!("{why}"),
                    },
                }
            }
            ColumnarValue::Array(tokens) => {
                let texts = cast(&texts.to_array(rows)?, &DataType::Utf8)?;
                let tokens = cast(tokens, &DataType::Utf8)?;
                let both = texts.as_string::<i32>().iter().zip(tokens.as_string::<i32>());
                both.map(|(text, token)| Some(self.one(text?, token?))).collect()
            }
        };
        if scalar && matches!(token, ColumnarValue::Scalar(_)) {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&found, 0)?));
        }
        Ok(ColumnarValue::Array(Arc::new(found) as ArrayRef))
    }
}

impl HasToken {
    fn constant(&self, texts: &StringArray, token: &str) -> BooleanArray {
        let mut found = BooleanBufferBuilder::new(texts.len());
        if self.any_case {
            (0..texts.len()).for_each(|row| found.append(self.one(texts.value(row), token)));
        } else {
            found.append_n(texts.len(), false);
            rows_with(texts, token, |row| found.set_bit(row, true));
        }
        BooleanArray::new(found.finish(), texts.nulls().cloned())
    }
}

/// Looks for `token` in all texts at once, as they lie one after the other: most have nothing like
/// it, and a search of its own for each costs more than the search.
fn rows_with(texts: &StringArray, token: &str, mut found: impl FnMut(usize)) {
    let finder = Finder::new(token);
    let offsets = texts.value_offsets();
    let bytes = texts.value_data();
    let (mut at, all) = (offsets[0] as usize, offsets[texts.len()] as usize);
    while let Some(next) = finder.find(&bytes[at..all]) {
        let start = at + next;
        // The row that it begins in: of empty ones at the same place the last.
        let row = offsets.partition_point(|&o| o as usize <= start) - 1;
        let (first, last) = (offsets[row] as usize, offsets[row + 1] as usize);
        let text = texts.value(row);
        let (start, end) = (start - first, start - first + token.len());
        let whole = end <= last - first
            && !text[..start].chars().next_back().is_some_and(is_token_char)
            && !text[end..].chars().next().is_some_and(is_token_char);
        if whole {
            found(row);
        }
        at = if whole { last } else { first + start + 1 };
    }
}

#[cfg(test)]
mod tests;
