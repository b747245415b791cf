//! Where notices go: one module per receiver type.
//!
//! Each has a `Config` (what people write), a proved and serializable form that the router keeps
//! in its log (secrets as references, read anew at every send), and a `send` of one attempt.
//! Retries, backoff and order belong to the router. No error text holds a secret URL or key.

pub mod console;
pub mod email;
mod http;
mod notification;
pub mod pagerduty;
pub mod slack;
#[cfg(test)]
mod testing;
pub mod webhook;

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use weir_pipeline::config::Secret;

pub use notification::{Notice, Notification, Reason};

/// A type of receiver, for its reference page.
#[derive(Clone, Copy)]
pub struct ReceiverKind {
    /// Its key in `[receivers.*]`.
    pub name: &'static str,
    /// One line: what it does.
    pub about: &'static str,
    /// Source text of its module, whose leading `//!` lines are its reference page.
    pub source: &'static str,
    /// JSON schema of its keys.
    pub schema: fn() -> schemars::Schema,
}

/// Every receiver type but the console, which has nothing to say.
pub const RECEIVERS: &[ReceiverKind] = &[
    ReceiverKind {
        name: "email",
        about: "send mail",
        source: include_str!("notify/email.rs"),
        schema: || schemars::schema_for!(email::Config),
    },
    ReceiverKind {
        name: "pagerduty",
        about: "open and close incidents in PagerDuty",
        source: include_str!("notify/pagerduty.rs"),
        schema: || schemars::schema_for!(pagerduty::Config),
    },
    ReceiverKind {
        name: "slack",
        about: "post to a Slack channel",
        source: include_str!("notify/slack.rs"),
        schema: || schemars::schema_for!(slack::Config),
    },
    ReceiverKind {
        name: "webhook",
        about: "post Alertmanager's JSON",
        source: include_str!("notify/webhook.rs"),
        schema: || schemars::schema_for!(webhook::Config),
    },
];

/// One place that a receiver sends to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Target {
    /// `receiver/type:destination`; a changed destination is another target.
    pub id: String,
    /// Name of the receiver.
    pub receiver: String,
    /// Whether it is told of what resolved.
    pub send_resolved: bool,
    /// How to reach it.
    pub channel: Channel,
}

impl Target {
    /// For another attempt that only the recipients `left` are still to take; all if that is
    /// empty.
    pub(crate) fn narrowed(mut self, left: &[String]) -> Self {
        if let Channel::Email(email) = &mut self.channel
            && !left.is_empty()
        {
            email.narrow(left);
        }
        self
    }

    /// With all of its recipients again.
    pub(crate) fn whole(mut self) -> Self {
        if let Channel::Email(email) = &mut self.channel {
            email.narrow(&[]);
        }
        self
    }
}

/// How to reach a target.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// Standard output.
    Console,
    /// A mail server.
    Email(email::Email),
    /// PagerDuty Events v2.
    Pagerduty(pagerduty::Pagerduty),
    /// A Slack channel.
    Slack(slack::Slack),
    /// An HTTP endpoint that takes Alertmanager's JSON.
    Webhook(webhook::Webhook),
}

/// Why one attempt failed. The message holds no secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SendError {
    /// What went wrong.
    pub message: String,
    /// Whether the same again may work.
    pub retry: bool,
    /// What the other side asked to wait.
    pub after: Option<Duration>,
    /// Whether the other side may have taken it all the same.
    pub doubt: bool,
    /// Of several recipients, those that did not take it but may later; others did.
    pub left: Vec<String>,
}

impl SendError {
    /// Worth another try.
    pub fn transient(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: true, after: None, doubt: false, left: Vec::new() }
    }

    /// Stays wrong until someone changes something.
    pub fn permanent(message: impl Into<String>) -> Self {
        Self { message: message.into(), retry: false, after: None, doubt: false, left: Vec::new() }
    }

    /// It may have been taken all the same: a time limit, an answer torn off.
    #[must_use]
    pub fn in_doubt(mut self) -> Self {
        self.doubt = true;
        self
    }

    /// Some recipients took it, these may later: only they are tried again.
    #[must_use]
    pub(crate) fn left(mut self, left: Vec<String>) -> Self {
        self.left = left;
        self
    }

    /// With what the other side asked to wait.
    #[must_use]
    pub fn after(mut self, after: Option<Duration>) -> Self {
        self.after = after;
        self
    }

    /// Without the texts of `secrets`, whoever put them into the message.
    #[must_use]
    pub(crate) fn redact(mut self, secrets: &[&str]) -> Self {
        for secret in secrets.iter().filter(|s| !s.is_empty()) {
            self.message = self.message.replace(secret, "<secret>");
        }
        self.message = excerpt(&self.message, MESSAGE_CHARS_MAX);
        self
    }
}

/// Longest error text kept, in characters: enough for an answer's own words.
const MESSAGE_CHARS_MAX: usize = 400;

/// What makes attempts; tests put another in its place.
pub trait Transport: Send + Sync + 'static {
    /// Makes one attempt, within its own time limits.
    fn send<'a>(
        &'a self,
        target: &'a Target,
        notification: &'a Notification,
    ) -> BoxFuture<'a, Result<(), SendError>>;
}

/// The real ones.
pub struct Notifiers {
    http: http::Clients,
    /// Taken while standard output is written to: it may block, and then one thread is enough.
    console: Arc<Semaphore>,
}

impl Notifiers {
    /// Needs the process-wide TLS provider to be installed.
    ///
    /// # Errors
    /// If the TLS client cannot be made.
    pub fn new() -> Result<Self, SendError> {
        Ok(Self { http: http::Clients::new()?, console: Arc::new(Semaphore::new(1)) })
    }
}

impl Transport for Notifiers {
    fn send<'a>(
        &'a self,
        target: &'a Target,
        notification: &'a Notification,
    ) -> BoxFuture<'a, Result<(), SendError>> {
        match &target.channel {
            Channel::Console => Box::pin(console::send(self.console.clone(), notification)),
            Channel::Email(email) => Box::pin(email.send(notification)),
            Channel::Pagerduty(pagerduty) => Box::pin(pagerduty.send(&self.http, notification)),
            Channel::Slack(slack) => Box::pin(slack.send(&self.http, notification)),
            Channel::Webhook(webhook) => Box::pin(webhook.send(&self.http, notification)),
        }
    }
}

/// A reference to a secret that can stand in the router's log; the secret itself never does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretRef(Secret);

impl SecretRef {
    /// The secret as it is now, without white space around it.
    pub(crate) fn reveal(&self) -> Result<String, SendError> {
        let value = self.0.reveal().map_err(|e| SendError::transient(e.to_string()))?;
        Ok(value.trim().to_owned())
    }

    /// `env:NAME` or `file:PATH`.
    pub(crate) fn reference(&self) -> &str {
        self.0.reference()
    }
}

impl From<Secret> for SecretRef {
    fn from(secret: Secret) -> Self {
        Self(secret)
    }
}

impl Serialize for SecretRef {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0.reference())
    }
}

impl<'de> Deserialize<'de> for SecretRef {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        Secret::deserialize(d).map(Self)
    }
}

/// `text` cut to `chars_max` characters, with an ellipsis in place of the rest.
pub(crate) fn excerpt(text: &str, chars_max: usize) -> String {
    if text.chars().count() <= chars_max {
        return text.to_owned();
    }
    text.chars().take(chars_max.saturating_sub(1)).chain(['…']).collect()
}

/// Eight hex digits that stand for a destination whose text is secret or long.
pub(crate) fn short_hash(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).iter().take(4).map(|b| format!("{b:02x}")).collect()
}

/// Hex SHA-256.
pub(crate) fn sha256_hex(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}
