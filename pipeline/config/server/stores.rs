//! `[stores.<name>]`: stores of others that queries read tables of.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::Spanned;
use crate::config::types::{ClientAuth, Duration, TlsClient};
use crate::diagnostic::{Diagnostic, Span};

/// Names that mean something else in front of a dot.
const TAKEN: [&str; 2] = ["information_schema", "metrics"];

/// Default of `timeout`.
const TIMEOUT: Duration = Duration::from_secs(10);

/// What kind of store it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum StoreKind {
    /// ClickHouse, over its HTTP interface.
    ClickHouse,
}

/// `[stores.<name>]`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct StoreConfig {
    /// `clickhouse`.
    pub r#type: StoreKind,
    /// URL of the HTTP interface.
    pub endpoint: String,
    /// Database of tables that are named without one.
    #[serde(default = "default_database")]
    pub database: String,
    /// Longest wait for what its tables are: a store that is down is known by then.
    #[serde(default = "default_timeout")]
    pub timeout: Duration,
    /// TLS to the endpoint.
    pub tls: Option<TlsClient>,
    /// Who asks.
    #[serde(default)]
    pub auth: ClientAuth,
}

fn default_database() -> String {
    "default".to_owned()
}

fn default_timeout() -> Duration {
    TIMEOUT
}

impl StoreConfig {
    /// For `weir config`: secrets are references.
    pub(super) fn shown(&self) -> String {
        format!("{{ type = \"clickhouse\", endpoint = {:?} }}", masked(&self.endpoint))
    }

    /// What is wrong with it.
    pub(super) fn check(&self, name: &str, at: &Span) -> Option<Diagnostic> {
        let wrong = |message: String| Some(Diagnostic::error("W015", message).at(at));
        let usable = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if TAKEN.contains(&name)
            || !name.chars().all(usable)
            || !name.starts_with(char::is_alphabetic)
        {
            return wrong(format!("`{name}` cannot be the name of a store")).map(|d| {
                d.label("expected lower-case letters, digits and `_`, and no name of Weir's own")
            });
        }
        let url = url::Url::parse(&self.endpoint).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        match url {
            None => wrong(format!("endpoint of store `{name}` is no URL of `http` or `https`")),
            Some(url) if url.password().is_some() || !url.username().is_empty() => {
                wrong(format!("endpoint of store `{name}` holds a user"))
                    .map(|d| d.label("expected `auth = { basic = { username, password } }`"))
            }
            Some(_) if self.timeout.0.is_zero() => {
                wrong(format!("`timeout` of store `{name}` is 0"))
            }
            Some(_) => None,
        }
    }
}

/// Without a user, should somebody have written one.
fn masked(endpoint: &str) -> String {
    match url::Url::parse(endpoint) {
        Ok(url) => format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default()),
        Err(_) => "?".to_owned(),
    }
}

/// By name.
pub type Stores = BTreeMap<String, StoreConfig>;

/// As written.
pub(super) type Written = BTreeMap<String, Spanned<StoreConfig>>;
