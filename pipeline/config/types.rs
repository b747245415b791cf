//! Value types that mean the same in every component.

mod auth;
mod secret;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};

pub use auth::{Basic, ClientAuth, Header, ServerAuth, TlsClient, TlsServer};
pub(crate) use secret::SECRET_EXPECTED;
pub use secret::{Secret, SecretError};

/// A length of time as written: `"10s"`, `"5m"`, `"1h30m"`, `"250ms"`, `"7d"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

/// A number of bytes as written: `"64MiB"`, `"10GB"`, `512`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// Unit and its nanoseconds; longer names first where one begins another.
const TIME_UNITS: [(&str, u64); 9] = [
    ("ns", 1),
    ("us", 1_000),
    ("µs", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60_000_000_000),
    ("h", 3_600_000_000_000),
    ("d", 86_400_000_000_000),
    ("w", 604_800_000_000_000),
];

/// Unit and its bytes.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];

/// What stands for a duration in messages and schemas.
pub(crate) const DURATION_EXPECTED: &str = "a duration such as `\"10s\"` or `\"1h30m\"`";
/// What stands for a size in messages and schemas.
pub(crate) const SIZE_EXPECTED: &str = "a size such as `\"64MiB\"` or `\"10GB\"`";

impl Duration {
    /// Nanoseconds, at most `i64::MAX` (292 years).
    pub fn nanos(self) -> i64 {
        i64::try_from(self.0.as_nanos()).unwrap_or(i64::MAX)
    }

    /// A number of seconds, for defaults.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(std::time::Duration::from_secs(seconds))
    }

    /// A number of milliseconds, for defaults.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(std::time::Duration::from_millis(milliseconds))
    }
}

impl FromStr for Duration {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a duration, expected {DURATION_EXPECTED}");
        let mut rest = text.trim();
        let mut nanos: u64 = 0;
        if rest.is_empty() {
            return Err(wrong());
        }
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
            let number: u64 = rest[..digits].parse().map_err(|_| wrong())?;
            rest = &rest[digits..];
            let unit_end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
            let (_, unit) =
                TIME_UNITS.iter().find(|(u, _)| *u == &rest[..unit_end]).ok_or_else(wrong)?;
            nanos = number
                .checked_mul(*unit)
                .and_then(|n| n.checked_add(nanos))
                .filter(|n| i64::try_from(*n).is_ok())
                .ok_or_else(|| format!("duration `{text}` is longer than 292 years"))?;
            rest = &rest[unit_end..];
        }
        Ok(Self(std::time::Duration::from_nanos(nanos)))
    }
}

impl fmt::Display for Duration {
    /// In the form that [`Duration::from_str`] reads.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = u64::try_from(self.0.as_nanos()).unwrap_or(u64::MAX);
        if rest == 0 {
            return f.write_str("0s");
        }
        for unit in ["d", "h", "m", "s", "ms", "us", "ns"] {
            let Some((_, size)) = TIME_UNITS.iter().find(|(u, _)| *u == unit) else { continue };
            if rest >= *size {
                write!(f, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Duration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Duration {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "format": "weir-duration",
            "pattern": "^([0-9]+(ns|us|µs|ms|s|m|h|d|w))+$",
        })
    }
}

impl ByteSize {
    /// The number of bytes, for use as a length in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

impl FromStr for ByteSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not a size, expected {SIZE_EXPECTED}");
        let trimmed = text.trim();
        let digits = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
        let number: u64 = trimmed[..digits].parse().map_err(|_| wrong())?;
        let unit = trimmed[digits..].trim_start();
        let size = if unit.is_empty() {
            1
        } else {
            SIZE_UNITS
                .iter()
                .find(|(u, _)| u.eq_ignore_ascii_case(unit))
                .map(|(_, s)| *s)
                .ok_or_else(wrong)?
        };
        number
            .checked_mul(size)
            .filter(|n| i64::try_from(*n).is_ok())
            .map(Self)
            .ok_or_else(|| format!("size `{text}` is too large"))
    }
}

impl fmt::Display for ByteSize {
    /// In the form that [`ByteSize::from_str`] reads, in the largest unit that fits evenly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let even =
            |(_, size): &&(&str, u64)| *size > 1 && self.0.is_multiple_of(*size) && self.0 > 0;
        match SIZE_UNITS.iter().filter(even).max_by_key(|(_, size)| *size) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ByteSize;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_EXPECTED)
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<ByteSize, E> {
                let wrong = || E::custom(format!("`{n}` is not a size, expected {SIZE_EXPECTED}"));
                u64::try_from(n).map(ByteSize).map_err(|_| wrong())
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<ByteSize, E> {
                Ok(ByteSize(n))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ByteSize, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ByteSize {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "ByteSize".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["string", "integer"], "format": "weir-size" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr<Err = String> + fmt::Display>(text: &str, expect: &str) {
        let got = text.parse::<T>().map_or_else(|e| e, |v| v.to_string());
        assert_eq!(got, expect, "{text}");
    }

    #[test]
    fn durations() {
        check::<Duration>("10s", "10s");
        check::<Duration>("90m", "1h30m");
        check::<Duration>("1h30m", "1h30m");
        check::<Duration>("250ms", "250ms");
        check::<Duration>("7d", "7d");
        check::<Duration>("0s", "0s");
        check::<Duration>("3µs", "3us");
        for bad in ["", "10", "s", "1.5h", "-1s", "1 s", "10sec", "1hm"] {
            check::<Duration>(
                bad,
                &format!("`{bad}` is not a duration, expected {DURATION_EXPECTED}"),
            );
        }
        check::<Duration>("999999w", "duration `999999w` is longer than 292 years");
    }

    #[test]
    fn sizes() {
        check::<ByteSize>("64MiB", "64MiB");
        check::<ByteSize>("10 GB", "10GB");
        check::<ByteSize>("512", "512B");
        check::<ByteSize>("1024kib", "1MiB");
        check::<ByteSize>("0", "0B");
        for bad in ["", "MiB", "-1", "1.5GB", "3 miles"] {
            check::<ByteSize>(bad, &format!("`{bad}` is not a size, expected {SIZE_EXPECTED}"));
        }
        check::<ByteSize>("99999999TiB", "size `99999999TiB` is too large");
    }
}
