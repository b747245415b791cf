//! Where lookup tables are read from: one module per type, and what they share.

mod answer;
mod database;
pub(crate) mod file;
pub(crate) mod http_json;
pub(crate) mod mysql;
mod numbers;
mod plain;
pub(crate) mod postgres;
mod query;
pub(crate) mod sql;
#[cfg(test)]
mod tests;

use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use weir_pipeline::config::{self, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::lookup::Content;

/// Between two looks at a peer, by default.
const REFRESH: Duration = Duration::from_secs(300);
/// Shortest `refresh`: each new version is a checkpoint.
const REFRESH_MIN: Duration = Duration::from_secs(1);
/// Longest time that a peer may take, by default.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Rows to go by where the peer cannot be asked, as written.
type Sample = Vec<Map<String, Value>>;

/// How a peer is asked.
#[derive(Clone, Copy, Debug)]
struct Asking {
    refresh: Duration,
    timeout: Duration,
}

/// What all tables of peers can say.
fn asking(
    section: &Section,
    refresh: Option<&Spanned<config::Duration>>,
    timeout: Option<&Spanned<config::Duration>>,
    wrong: &mut Diagnostics,
) -> Asking {
    let mut read = |given: Option<&Spanned<config::Duration>>, key, default, least| {
        let Some(given) = given else { return default };
        if given.value.0 < least {
            let short = Diagnostic::error("W015", format!("`{key}` is {}", given.value));
            let label = format!("expected {} at least", config::Duration(least));
            wrong.push(short.at(&section.span(given)).label(label));
        }
        given.value.0
    };
    Asking {
        refresh: read(refresh, "refresh", REFRESH, REFRESH_MIN),
        timeout: read(timeout, "timeout", TIMEOUT, Duration::from_millis(1)),
    }
}

/// The content of a sample.
fn sampled(section: &Section, sample: Option<Sample>) -> Result<Option<Content>, Diagnostics> {
    let content = sample.map(|rows| Content::of_objects(&rows)).transpose();
    content.map_err(|why| {
        Diagnostic::error("W047", format!("`sample`: {why}")).at(&section.header).into()
    })
}

/// Sets a limit to how long `asked` may take.
async fn within<T>(
    timeout: Duration,
    asked: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    let late = |_| format!("no answer within {}", config::Duration(timeout));
    tokio::time::timeout(timeout, asked).await.map_err(late)?
}

/// A column name with its type, where a table says more than text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Type {
    /// True or false.
    Bool,
    /// A 64-bit integer.
    Int,
    /// A double.
    Double,
    /// Text.
    Text,
    /// A time, RFC 3339.
    Time,
}
