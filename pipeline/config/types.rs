//! Value types that mean the same in every component.

use schemars::JsonSchema;
use serde::Deserialize;

/// A length of time as written: `"10s"`, `"5m"`, `"1h30m"`, `"250ms"`, `"7d"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Duration(pub std::time::Duration);

/// A number of bytes as written: `"64MiB"`, `"10GB"`, `512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

/// A reference to a secret: `env:NAME` or `file:PATH`. The secret itself is read when it is used
/// and never kept in a plan, printed or logged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct Secret(String);

/// Why a secret could not be read. Never holds its value.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{0}")]
pub struct SecretError(pub String);
