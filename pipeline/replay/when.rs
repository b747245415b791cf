//! Times and positions as people write them.

use serde::{Deserialize, Deserializer};

use crate::config::Duration;

/// A place in the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// The oldest entry that the journal still has.
    Oldest,
    /// The first entry received at or after this time, UTC nanoseconds.
    Time(i64),
    /// The entry at this offset, or the first one behind it.
    Position(u64),
}

impl When {
    /// Reads `text`; `now` is what it may be relative to, UTC nanoseconds.
    ///
    /// # Errors
    /// If it is neither a time nor a position; says what is expected.
    pub fn parse(text: &str, now: i64) -> Result<Self, String> {
        let text = text.trim();
        let back = |length: &str| {
            let length: Duration = length.trim().parse().ok()?;
            Some(Self::Time(now.saturating_sub(length.nanos())))
        };
        let found = match text {
            "now" => Some(Self::Time(now)),
            "oldest" => Some(Self::Oldest),
            _ if text.bytes().all(|b| b.is_ascii_digit()) => text.parse().ok().map(Self::Position),
            _ => match (text.strip_prefix('-'), text.strip_suffix(" ago")) {
                (Some(length), _) | (_, Some(length)) => back(length),
                (None, None) => {
                    let time: Option<jiff::Timestamp> = text.parse().ok();
                    let nanos = time.and_then(|t| i64::try_from(t.as_nanosecond()).ok());
                    nanos.map(Self::Time)
                }
            },
        };
        found.ok_or_else(|| {
            format!(
                "`{text}` is neither a time nor a position: expected a time such as \
                 `2026-01-31T12:00:00Z`, `-15m` or `15m ago`, the number of a journal entry such \
                 as `1234`, or `oldest`"
            )
        })
    }
}

/// UTC nanoseconds as people read them.
pub(crate) fn show(time: i64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(time))
        .map_or_else(|_| time.to_string(), |t| t.strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a time as text, or a position")]
enum Written {
    Text(String),
    Number(u64),
}

impl From<Written> for String {
    fn from(written: Written) -> Self {
        match written {
            Written::Text(text) => text,
            Written::Number(number) => number.to_string(),
        }
    }
}

/// A text, or a number for a position.
pub(super) fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Written::deserialize(deserializer).map(String::from)
}

/// As [`text`], or nothing.
pub(super) fn maybe_text<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<String>, D::Error> {
    Ok(Option::<Written>::deserialize(deserializer)?.map(String::from))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const MINUTE: i64 = 60_000_000_000;

    #[test]
    fn times_and_positions() {
        let now = 1_000 * MINUTE;
        for (text, expected) in [
            ("now", When::Time(now)),
            ("oldest", When::Oldest),
            ("-15m", When::Time(now - 15 * MINUTE)),
            (" 1h30m ago", When::Time(now - 90 * MINUTE)),
            ("1970-01-01T00:01:00Z", When::Time(MINUTE)),
            ("1970-01-01T01:01:00+01:00", When::Time(MINUTE)),
            ("0", When::Position(0)),
            ("1234", When::Position(1234)),
        ] {
            assert_eq!(When::parse(text, now), Ok(expected), "{text}");
        }
        for text in ["", "yesterday", "15m", "-15", "12:00", "2026-01-31", "99999999999999999999"] {
            let error = When::parse(text, now).unwrap_err();
            assert!(error.contains(&format!("`{text}` is neither")), "{error}");
        }
        assert_eq!(show(MINUTE), "1970-01-01T00:01:00.000Z");
    }
}
