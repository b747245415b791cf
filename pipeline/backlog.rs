//! How far a pipeline, or a sink that is detached from it, may lag behind, and what happens past
//! it.
//!
//! ```toml
//! [backlog]
//! limit = "20%"          # of `journal.max_bytes`, or a size such as "4GiB"
//! policy = "refuse"      # or "skip"
//! max_lag = "1m"
//!
//! [sinks.archive]
//! backlog = { limit = "2GiB", policy = "skip" }   # while it is detached
//! ```
//!
//! What a consumer has not saved yet keeps the journal from being trimmed. Past `limit` the sources
//! that it reads answer 503 (`refuse`), or it gives up what is older and says which entries those
//! were (`skip`). Half of it is announced. A pipeline that is more than `max_lag` behind, and by
//! more than memory holds, lacks processing power: its sources answer 429 until it has caught up.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error as _};

use crate::config;

/// Default of `max_lag`.
const MAX_LAG: Duration = Duration::from_secs(60);
/// Default of `limit`, percent of the journal's limit.
const SHARE: u8 = 20;

/// How far a consumer may lag behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backlog {
    /// Bytes of journal that it may hold.
    pub limit: Limit,
    /// What happens past it.
    pub policy: Policy,
    /// Receive time that it may be behind by before its sources answer 429.
    pub max_lag: Duration,
}

impl Backlog {
    /// The default, with this policy.
    pub const fn with(policy: Policy) -> Self {
        Self { limit: Limit::Share(SHARE), policy, max_lag: MAX_LAG }
    }
}

impl fmt::Display for Backlog {
    /// All of it, in a form that stays: hashes of plans contain it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let policy = match self.policy {
            Policy::Refuse => "refuse",
            Policy::Skip => "skip",
        };
        write!(f, "{} {policy} {}", self.limit, config::Duration(self.max_lag))
    }
}

/// A part of the journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Percent of its limit.
    Share(u8),
    /// Bytes.
    Bytes(u64),
}

impl Limit {
    /// Bytes, of a journal that may have `max`.
    pub fn of(self, max: u64) -> u64 {
        match self {
            Self::Share(percent) => max / 100 * u64::from(percent),
            Self::Bytes(bytes) => bytes,
        }
    }
}

/// What happens past the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Policy {
    /// The sources that it reads refuse data.
    Refuse,
    /// It gives up what is older.
    Skip,
}

/// `[backlog]` of a pipeline file.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct PipelineConfig {
    /// Journal that it may hold: a size, or percent of `journal.max_bytes`; default 20%.
    limit: Option<Limit>,
    /// Past it: `refuse` (default) or `skip`.
    policy: Option<Policy>,
    /// How far it may be behind before its sources answer 429; default 1m.
    max_lag: Option<config::Duration>,
}

impl PipelineConfig {
    pub(crate) fn resolve(&self) -> Backlog {
        let default = Backlog::with(Policy::Refuse);
        Backlog {
            limit: self.limit.unwrap_or(default.limit),
            policy: self.policy.unwrap_or(default.policy),
            max_lag: self.max_lag.map_or(default.max_lag, |lag| lag.0),
        }
    }
}

/// `backlog` of a sink.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkConfig {
    /// Journal that it may hold while it is detached: a size, or percent of `journal.max_bytes`;
    /// default 20%.
    limit: Option<Limit>,
    /// Past it: `refuse` (default of `store`) or `skip` (default of the others).
    policy: Option<Policy>,
}

impl SinkConfig {
    /// With the default policy of the sink.
    pub(crate) fn resolve(self, policy: Policy) -> Backlog {
        let default = Backlog::with(self.policy.unwrap_or(policy));
        Backlog { limit: self.limit.unwrap_or(default.limit), ..default }
    }
}

impl FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some(percent) = text.trim().strip_suffix('%') else {
            return text.parse::<config::ByteSize>().map(|size| Self::Bytes(size.0));
        };
        let percent = percent.trim().parse().ok().filter(|p| (1..=100).contains(p));
        percent.map(Self::Share).ok_or_else(|| {
            format!("`{text}` is no share, expected `\"1%\"` to `\"100%\"` or a size")
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Share(percent) => write!(f, "{percent}%"),
            Self::Bytes(bytes) => config::ByteSize(*bytes).fmt(f),
        }
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl JsonSchema for Limit {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Limit".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "weir-share" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits() {
        let limit = |text: &str| text.parse::<Limit>().map(|l| (l.to_string(), l.of(1000)));
        assert_eq!(limit("20%"), Ok(("20%".to_owned(), 200)));
        assert_eq!(limit("4MiB"), Ok(("4MiB".to_owned(), 4 << 20)));
        for bad in ["0%", "101%", "x%", "", "1.5%", "four"] {
            assert!(limit(bad).is_err(), "{bad}");
        }
    }
}
