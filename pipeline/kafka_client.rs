//! The Kafka client of components that read topics or write to them: its brokers, its TLS, its
//! credentials, and topics that are to be created.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rskafka::BackoffConfig;
use rskafka::client::error::{Error, ProtocolError};
use rskafka::client::{Client, ClientBuilder, Credentials, SaslConfig};
use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::{Basic, Scope, Section, Spanned, TlsClient};
use crate::diagnostic::{Diagnostic, Diagnostics};
use crate::tls::client_config;

/// A request that a broker answers at once, with what the client tries again within it, has to be
/// done within this time.
pub const TIMEOUT: Duration = Duration::from_secs(10);
/// The same for what brokers do together.
pub const TOGETHER: Duration = Duration::from_secs(40);
/// How the client itself tries again. After the last the component does, with a new client, which
/// reads secrets and certificates anew.
const BACKOFF: (Duration, Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(1), Duration::from_secs(2));
/// The largest answer of a broker that is read.
const ANSWER_BYTES_MAX: usize = 128 << 20;
/// Longest name of a topic.
/// Source: `Topic.MAX_NAME_LENGTH` of Kafka.
const TOPIC_CHARS_MAX: usize = 249;

/// How a user proves who he is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mechanism {
    /// The password as it is: over TLS only.
    #[default]
    Plain,
    /// SCRAM-SHA-256.
    ScramSha256,
    /// SCRAM-SHA-512.
    ScramSha512,
}

/// `auth` of a client of Kafka (SASL).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaAuth {
    /// User name and password.
    pub basic: Option<Basic>,
    /// `plain` (default), `scram_sha256`, `scram_sha512`.
    #[serde(default)]
    pub mechanism: Mechanism,
}

/// `create`: topics that are not there.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KafkaCreate {
    /// How many partitions they get. Default 1.
    pub partitions: Option<u16>,
    /// How many brokers have each partition. Default 1.
    pub replicas: Option<u8>,
}

/// How to reach Kafka.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KafkaConnection {
    endpoints: Vec<String>,
    tls: Option<TlsClient>,
    auth: KafkaAuth,
}

impl KafkaConnection {
    /// Checks what was written.
    ///
    /// # Errors
    /// All that is wrong with it.
    pub fn plan(
        section: &Section,
        scope: &Scope,
        endpoints: &Spanned<Vec<String>>,
        tls: Option<TlsClient>,
        auth: KafkaAuth,
    ) -> Result<Self, Diagnostics> {
        let mut wrong = Diagnostics::default();
        let is_address = |text: &str| {
            let parts = text.rsplit_once(':');
            parts.is_some_and(|(host, port)| {
                let plain = !host.contains(|c: char| c.is_whitespace() || "/@".contains(c));
                !host.is_empty() && plain && port.parse::<u16>().is_ok()
            })
        };
        let bad = endpoints.value.iter().position(|e| !is_address(e));
        if endpoints.value.is_empty() || bad.is_some() {
            let message = match bad {
                // It may hold a password, so it is not shown.
                Some(at) => format!("`endpoints`: number {} is no host and port", at + 1),
                None => "`endpoints` is empty".to_owned(),
            };
            let error = Diagnostic::error("W015", message).at(&section.span(endpoints));
            wrong.push(error.hint("for example `endpoints = [\"127.0.0.1:9092\"]`"));
        }
        if auth.basic.is_some() && auth.mechanism == Mechanism::Plain && tls.is_none() {
            let message = "the password goes over the network as it is, without `tls`";
            let warning = Diagnostic::warning("W061", message).at(&section.header);
            scope.warn(warning.hint("set `tls = {}`, or `mechanism = \"scram_sha512\"`"));
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
        let (init_backoff, max_backoff, deadline) = BACKOFF;
        let mut builder = ClientBuilder::new(self.endpoints.clone())
            .client_id("weir")
            .max_message_size(ANSWER_BYTES_MAX)
            .backoff_config(BackoffConfig {
                init_backoff,
                max_backoff,
                base: 2.0,
                deadline: Some(deadline),
            });
        if let Some(tls) = &self.tls {
            let tls = client_config(tls).map_err(|e| e.to_string())?;
            builder = builder.tls_config(Arc::new(tls));
        }
        if let Some(Basic { username, password }) = &self.auth.basic {
            let password = password.reveal().map_err(|e| e.to_string())?;
            let credentials = Credentials::new(username.clone(), password);
            builder = builder.sasl_config(match self.auth.mechanism {
                Mechanism::Plain => SaslConfig::Plain(credentials),
                Mechanism::ScramSha256 => SaslConfig::ScramSha256(credentials),
                Mechanism::ScramSha512 => SaslConfig::ScramSha512(credentials),
            });
        }
        within("connecting", builder.build()).await
    }
}

/// Does a request within [`TIMEOUT`]: the client itself would wait for ever.
///
/// # Errors
/// As text, with what caused it.
pub async fn within<T>(
    what: &str,
    request: impl Future<Output = Result<T, Error>>,
) -> Result<T, String> {
    match tokio::time::timeout(TIMEOUT, request).await {
        Ok(result) => result.map_err(|e| describe(&e)),
        Err(_) => Err(format!("{what}: no answer within {} s", TIMEOUT.as_secs())),
    }
}

/// An error in the words of Kafka.
pub fn describe(error: &Error) -> String {
    match error {
        Error::ServerError { protocol_error, error_message, .. } => {
            let more = error_message.as_ref().map(|m| format!(": {m}")).unwrap_or_default();
            format!("{protocol_error:?}{more}")
        }
        other => crate::nats_client::chain(other),
    }
}

/// What the broker says is wrong, if it is that.
pub fn protocol_error(error: &Error) -> Option<ProtocolError> {
    match error {
        Error::ServerError { protocol_error, .. } => Some(*protocol_error),
        _ => None,
    }
}

/// The partitions of all topics.
///
/// # Errors
/// If no broker says.
pub async fn topics(client: &Client) -> Result<BTreeMap<String, Vec<i32>>, String> {
    let topics = within("topics", client.list_topics()).await?;
    Ok(topics.into_iter().map(|t| (t.name, t.partitions.into_iter().collect())).collect())
}

/// Creates a topic that is not there.
///
/// # Errors
/// If no broker does.
pub async fn create(client: &Client, name: &str, create: &KafkaCreate) -> Result<(), String> {
    let controller = client.controller_client().map_err(|e| describe(&e))?;
    let partitions = i32::from(create.partitions.unwrap_or(1));
    let replicas = i16::from(create.replicas.unwrap_or(1));
    let timeout = i32::try_from(TOGETHER.as_millis() / 2).unwrap_or(i32::MAX);
    let created = controller.create_topic(name, partitions, replicas, timeout);
    match tokio::time::timeout(TOGETHER, created).await {
        Ok(Ok(())) => Ok(()),
        // Somebody else was faster.
        Ok(Err(e)) if protocol_error(&e) == Some(ProtocolError::TopicAlreadyExists) => Ok(()),
        Ok(Err(e)) => Err(format!("topic `{name}` cannot be created: {}", describe(&e))),
        Err(_) => Err(format!("topic `{name}` cannot be created: no answer")),
    }
}

/// Whether Kafka takes it as the name of a topic.
pub fn is_topic(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    !name.is_empty()
        && name.len() <= TOPIC_CHARS_MAX
        && !matches!(name, "." | "..")
        && name.chars().all(plain)
}

/// `text` as the name of a topic: what cannot stand in one becomes `_`.
pub fn topic(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
    let name: String = text.chars().take(TOPIC_CHARS_MAX).map(plain).collect();
    if is_topic(&name) { name } else { format!("_{}", name.replace('.', "_")) }
}
