//! The NATS client of components that read from JetStream or publish to it: its addresses, its TLS,
//! its credentials, and the stream if it is to be created.

use std::time::Duration as StdDuration;

use async_nats::jetstream::context::GetStreamErrorKind;
use async_nats::jetstream::stream::{Config as StreamConfig, StorageType, Stream};
use async_nats::jetstream::{Context, ErrorCode};
use async_nats::{Client, ConnectOptions, ServerAddr};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Basic, ByteSize, Duration, Scope, Secret, Section, Spanned, TlsClient};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::tls::client_config;

/// A connection is made, and a request answered, within this time.
pub const TIMEOUT: StdDuration = StdDuration::from_secs(10);
/// How often the client itself connects again. After that the component does, which reads secrets
/// and certificates anew.
const RECONNECTS: usize = 2;

/// `auth` of a client of NATS: at most one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsAuth {
    /// A token.
    pub token: Option<Secret>,
    /// User name and password.
    pub basic: Option<Basic>,
    /// Content of a credentials file (JWT and seed), as `nsc` writes it: `file:/path/user.creds`.
    pub credentials: Option<Secret>,
    /// Seed of an NKey.
    pub nkey: Option<Secret>,
}

/// `create`: the stream, if it is not there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NatsCreate {
    /// Subjects that it keeps.
    pub subjects: Vec<String>,
    /// How long it keeps messages. Default: for ever.
    pub retention: Option<Duration>,
    /// How many bytes it keeps. Default: any number.
    pub max_bytes: Option<ByteSize>,
    /// How many servers of a cluster have it. Default 1.
    pub replicas: Option<u8>,
    /// For how long it knows message ids, so that repeats vanish. Default 2 min.
    pub duplicate_window: Option<Duration>,
}

/// How to reach NATS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NatsConnection {
    endpoints: Vec<String>,
    tls: Option<TlsClient>,
    auth: NatsAuth,
}

impl NatsConnection {
    /// Checks what was written.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn plan(
        section: &Section,
        scope: &Scope,
        endpoints: &Spanned<Vec<String>>,
        tls: Option<TlsClient>,
        auth: NatsAuth,
    ) -> Result<Self, Diagnostics> {
        let mut wrong = Diagnostics::default();
        let mut error = |message: String, hint: &str| {
            let error = Diagnostic::error("W015", message).at(&section.span(endpoints));
            wrong.push(error.hint(hint));
        };
        const EXAMPLE: &str = "for example `endpoints = [\"nats://127.0.0.1:4222\"]`";
        if endpoints.value.is_empty() {
            error("`endpoints` is empty".to_owned(), EXAMPLE);
        }
        for (at, endpoint) in endpoints.value.iter().enumerate() {
            match endpoint.parse::<ServerAddr>() {
                // It may hold a password, so it is not shown.
                _ if endpoint.contains('@') => error(
                    format!("`endpoints`: number {} holds credentials", at + 1),
                    "write them as `auth = { basic = { username = \"...\", password = \"env:...\" } }`",
                ),
                Ok(address) if matches!(address.scheme(), "nats" | "tls") => {}
                _ => {
                    error(format!("`endpoints`: number {} is no address of NATS", at + 1), EXAMPLE)
                }
            }
        }
        let ways = [
            auth.token.is_some(),
            auth.basic.is_some(),
            auth.credentials.is_some(),
            auth.nkey.is_some(),
        ];
        if ways.iter().filter(|is| **is).count() > 1 {
            let message = "`auth` has more than one of `token`, `basic`, `credentials`, `nkey`";
            wrong.push(Diagnostic::error("W015", message).at(&section.header));
        }
        if wrong.has_errors() {
            return Err(wrong);
        }
        let tls = tls.map(|tls| tls.resolved(&scope.base));
        Ok(Self { endpoints: endpoints.value.clone(), tls, auth })
    }

    /// The addresses, for people.
    pub fn shown(&self) -> String {
        self.endpoints.join(",")
    }

    /// Connects; secrets and certificates are read now.
    ///
    /// # Errors
    /// Why it cannot.
    pub async fn connect(&self) -> Result<Client, String> {
        let secret = |secret: &Secret| secret.reveal().map_err(|e| e.to_string());
        let mut options = ConnectOptions::new();
        if let Some(token) = &self.auth.token {
            options = options.token(secret(token)?);
        }
        if let Some(Basic { username, password }) = &self.auth.basic {
            options = options.user_and_password(username.clone(), secret(password)?);
        }
        if let Some(nkey) = &self.auth.nkey {
            options = options.nkey(secret(nkey)?.trim().to_owned());
        }
        if let Some(credentials) = &self.auth.credentials {
            // The error may quote what it could not read.
            let bad = |_| format!("`{}` is no credentials file of NATS", credentials.reference());
            // The client wants a line ending behind the last line, which secrets lose.
            let lines = secret(credentials)? + "\n";
            options = options.credentials(&lines).map_err(bad)?;
        }
        let addresses: Result<Vec<ServerAddr>, _> =
            self.endpoints.iter().map(|e| e.parse()).collect();
        let addresses = addresses.map_err(|e| e.to_string())?;
        let encrypted = self.tls.is_some() || addresses.iter().any(ServerAddr::tls_required);
        if encrypted {
            let tls = client_config(&self.tls.clone().unwrap_or_default());
            let tls = tls.map_err(|e| e.to_string())?;
            options = options.tls_client_config(tls).require_tls(true);
        }
        let connecting = options
            .name("weir")
            .connection_timeout(TIMEOUT)
            .request_timeout(Some(TIMEOUT))
            .max_reconnects(RECONNECTS)
            .connect(addresses);
        let timeout = || format!("no answer within {} s", TIMEOUT.as_secs());
        let connected = tokio::time::timeout(2 * TIMEOUT, connecting).await;
        connected.map_err(|_| timeout())?.map_err(|e| chain(&e))
    }
}

impl NatsCreate {
    /// Checks what was written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), &'static str> {
        if self.subjects.is_empty() || self.subjects.iter().any(String::is_empty) {
            return Err("`create` needs `subjects`, for example `subjects = [\"events.>\"]`");
        }
        if self.replicas.is_some_and(|n| !(1..=5).contains(&n)) {
            return Err("`create`: `replicas` is 1 to 5");
        }
        Ok(())
    }

    fn config(&self, name: &str) -> StreamConfig {
        StreamConfig {
            name: name.to_owned(),
            subjects: self.subjects.clone(),
            max_age: self.retention.map_or(StdDuration::ZERO, |d| d.0),
            max_bytes: self.max_bytes.map_or(-1, |b| i64::try_from(b.0).unwrap_or(i64::MAX)),
            num_replicas: self.replicas.unwrap_or(1).into(),
            duplicate_window: self.duplicate_window.map_or(StdDuration::ZERO, |d| d.0),
            storage: StorageType::File,
            ..StreamConfig::default()
        }
    }
}

/// The stream `name`, created if `create` says so and it is not there.
///
/// # Errors
/// Why there is none, and what to do.
pub async fn stream(
    context: &Context,
    name: &str,
    create: Option<&NatsCreate>,
) -> Result<Stream, String> {
    let error = match context.get_stream(name).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let missing = match error.kind() {
        GetStreamErrorKind::JetStream(e) => e.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    };
    match create {
        Some(create) if missing => {
            let created = context.create_stream(create.config(name)).await;
            created.map_err(|e| format!("stream `{name}` cannot be created: {}", chain(&e)))
        }
        None if missing => Err(format!(
            "there is no stream `{name}`; create it, or let Weir do so by \
             `create = {{ subjects = [...] }}`"
        )),
        _ => Err(format!("stream `{name}`: {}", chain(&error))),
    }
}

/// An error with what caused it.
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
