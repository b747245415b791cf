//! Options of `tls` and authentication, alike in every component that talks to a network.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Deserializer;
use serde::{Deserialize, Serialize};

use super::{Secret, SecretError};

/// `tls` of a listener: PEM files, read again when they change.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsServer {
    /// Certificate chain, PEM.
    pub cert: PathBuf,
    /// Private key, PEM.
    pub key: PathBuf,
    /// Accept only clients whose certificate one of these authorities signed, PEM.
    pub client_ca: Option<PathBuf>,
}

/// `tls` of a client. Without it the system's authorities are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsClient {
    /// Trust these authorities instead of the system's, PEM.
    pub ca: Option<PathBuf>,
    /// Certificate chain to show to the server, PEM; needs `key`.
    pub cert: Option<PathBuf>,
    /// Its private key, PEM; needs `cert`.
    pub key: Option<PathBuf>,
    /// Name to expect in the server's certificate instead of the host connected to.
    pub server_name: Option<String>,
    /// Do not check the server's certificate. For tests; anyone on the way can read along.
    #[serde(default)]
    pub insecure_skip_verify: bool,
}

impl TlsClient {
    /// With its paths relative to `base`, the folder of the file in which they stand.
    #[must_use]
    pub fn resolved(self, base: &std::path::Path) -> Self {
        Self {
            ca: self.ca.map(|path| base.join(path)),
            cert: self.cert.map(|path| base.join(path)),
            key: self.key.map(|path| base.join(path)),
            ..self
        }
    }
}

/// `auth` of a client: how to prove who is asking.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ClientAuth {
    /// Sent as `Authorization: Bearer`.
    pub bearer: Option<Secret>,
    /// Sent as `Authorization: Basic`.
    pub basic: Option<Basic>,
    /// Further request headers.
    #[serde(default)]
    pub headers: BTreeMap<String, Header>,
}

/// User name and password.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Basic {
    /// User name.
    pub username: String,
    /// Password.
    pub password: Secret,
}

/// `auth` of a listener: one of these must fit. Empty means open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerAuth {
    /// Tokens taken as `Authorization: Bearer`.
    #[serde(default)]
    pub bearer: Vec<Secret>,
    /// User names and passwords taken as `Authorization: Basic`.
    #[serde(default)]
    pub basic: Vec<Basic>,
}

/// The value of a header: a reference to a secret (`env:NAME`, `file:PATH`), or plain text.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Header {
    /// Read when used.
    Secret(Secret),
    /// As written. Never printed: what it means is not known.
    Plain(String),
}

impl Header {
    /// The value to send, read now.
    ///
    /// # Errors
    /// If the secret cannot be read.
    pub fn reveal(&self) -> Result<String, SecretError> {
        match self {
            Self::Secret(secret) => secret.reveal(),
            Self::Plain(text) => Ok(text.clone()),
        }
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret(secret) => secret.fmt(f),
            Self::Plain(_) => f.write_str("***"),
        }
    }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Secret::parse(&text).map_or_else(|_| Self::Plain(text), Self::Secret))
    }
}

impl JsonSchema for Header {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Header".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "weir-header" })
    }
}
