//! `email` receiver: SMTP with STARTTLS (the default, and then required), implicit TLS, or none.
//!
//! ```toml
//! [receivers.oncall]
//! email = { to = ["ops@example.com"], from = "weir@example.com", host = "smtp.example.com", username = "weir", password = "file:/run/secrets/smtp" }
//! ```
//! `tls = "starttls"` (port 587), `"implicit"` (465) or `"none"` (25; refused with a password
//! unless the host is loopback). A message has text and HTML, a stable Message-ID, and references
//! that thread the notices of one group. A recipient that the server refuses does not take the
//! message from the others. Answers 4yz are tried again, for the recipients that got them, 5yz
//! are not. At least once; a repeated attempt has the same Message-ID.

mod message;
mod session;

use std::time::Duration;

use base64::Engine;
use lettre::message::Mailbox;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use weir_pipeline::config::{self, Secret, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};

use super::{Channel, Notification, SecretRef, SendError};

/// Time for one attempt, all of the dialogue.
const TIMEOUT: Duration = Duration::from_secs(30);

/// As written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Recipients.
    to: Spanned<Vec<Spanned<String>>>,
    /// Sender.
    from: Spanned<String>,
    /// Mail server.
    host: Spanned<String>,
    /// Its port (default by `tls`: 587, 465, 25).
    port: Option<u16>,
    /// How the connection is protected (default `starttls`).
    #[serde(default)]
    tls: Tls,
    /// Trust these authorities besides the system's, PEM file.
    ca: Option<Spanned<String>>,
    /// User name; needs `password`.
    username: Option<Spanned<String>>,
    /// Password; needs `username`.
    password: Option<Secret>,
    /// Name to greet the server with (default the name of this machine).
    hello: Option<String>,
    /// Time for one attempt (default 30 s).
    timeout: Option<config::Duration>,
    /// Whether it is told of what resolved (default true).
    pub(crate) send_resolved: Option<bool>,
}

/// How the connection is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Tls {
    /// A plain connection that must be upgraded before anything is said.
    #[default]
    Starttls,
    /// TLS from the first byte.
    Implicit,
    /// None.
    None,
}

/// As proved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Email {
    to: Vec<Address>,
    /// Of these, those that are still to take the notice on its way; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    left: Vec<String>,
    from: Address,
    host: String,
    port: u16,
    tls: Tls,
    ca: Option<String>,
    login: Option<(String, SecretRef)>,
    hello: Option<String>,
    timeout: Duration,
}

/// A proved address, kept as text in the router's log.
#[derive(Clone, Debug, PartialEq)]
struct Address(Mailbox);

impl Serialize for Address {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl Config {
    pub(crate) fn plan(&self, section: &Section) -> Result<(Channel, String), Diagnostics> {
        let mut problems = Diagnostics::default();
        let mut address = |text: &Spanned<String>| {
            let parsed =
                text.value.parse().map(Address).map_err(|e: lettre::address::AddressError| {
                    let message = format!("not an email address: `{}`", text.value);
                    Diagnostics::from(
                        Diagnostic::error("W154", message)
                            .at(&section.span(text))
                            .label(e.to_string()),
                    )
                });
            problems.ok(parsed)
        };
        let to: Vec<Address> = self.to.value.iter().filter_map(&mut address).collect();
        let from = address(&self.from);
        if self.to.value.is_empty() {
            let problem = Diagnostic::error("W154", "`email` needs at least one recipient");
            problems.push(problem.at(&section.span(&self.to)));
        }
        let host = self.host.value.trim().to_owned();
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || c == '/') {
            let problem = Diagnostic::error("W154", "`host` is not the name of a mail server");
            problems.push(problem.at(&section.span(&self.host)).hint("the port stands in `port`"));
        }
        let login = match (&self.username, &self.password) {
            (Some(user), Some(password)) => {
                if self.tls == Tls::None && !is_loopback(&host) {
                    let problem =
                        Diagnostic::error("W154", "a password needs a protected connection")
                            .hint("use `tls = \"starttls\"` or `tls = \"implicit\"`");
                    problems.push(problem.at(&section.span(user)));
                }
                Some((user.value.clone(), password.clone().into()))
            }
            (None, None) => None,
            _ => {
                let problem =
                    Diagnostic::error("W154", "`username` and `password` need each other");
                problems.push(problem.at(&section.header));
                None
            }
        };
        let (Some(from), false) = (from, problems.has_errors()) else { return Err(problems) };
        let port = self.port.unwrap_or(match self.tls {
            Tls::Starttls => 587,
            Tls::Implicit => 465,
            Tls::None => 25,
        });
        let name = to.iter().map(|m| m.0.email.to_string()).collect::<Vec<_>>().join(",");
        let email = Email {
            to,
            left: Vec::new(),
            from,
            host,
            port,
            tls: self.tls,
            ca: self.ca.as_ref().map(|c| c.value.clone()),
            login,
            hello: self.hello.clone(),
            timeout: self.timeout.map_or(TIMEOUT, |d| d.0),
        };
        Ok((Channel::Email(email), name))
    }
}

fn is_loopback(host: &str) -> bool {
    host == "localhost"
        || host
            .trim_matches(['[', ']'])
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

impl Email {
    /// The next attempt goes to these recipients only; to all if there are none.
    pub(super) fn narrow(&mut self, left: &[String]) {
        self.left = left.to_vec();
    }

    /// Addresses that the next attempt goes to.
    fn recipients(&self) -> impl Iterator<Item = &lettre::Address> {
        let all = self.to.iter().map(|m| &m.0.email);
        all.filter(|a| self.left.is_empty() || self.left.iter().any(|l| *l == a.to_string()))
    }

    /// One attempt. The dialogue runs in a task of its own with a time limit of its own: whoever
    /// drops this future leaves no half-said command on a connection that is used again.
    pub(super) async fn send(&self, notification: &Notification) -> Result<(), SendError> {
        let password = match &self.login {
            Some((_, secret)) => Some(secret.reveal()?),
            None => None,
        };
        let body = message::build(self, notification)?;
        let (email, secret) = (self.clone(), password.clone().unwrap_or_default());
        let task = tokio::spawn(async move {
            let timeout = email.timeout;
            match tokio::time::timeout(timeout, session::deliver(&email, password, &body)).await {
                Ok(result) => result,
                Err(_) => Err(SendError::transient(format!(
                    "the mail server did not finish within {} s",
                    timeout.as_secs_f64()
                ))
                .in_doubt()),
            }
        });
        let result = task.await.unwrap_or_else(|e| Err(SendError::transient(e.to_string())));
        // Servers like to quote the line they refuse: there the password stands encoded.
        let coded = |text: &str| base64::engine::general_purpose::STANDARD.encode(text);
        let user = self.login.as_ref().map_or("", |(user, _)| user.as_str());
        let (login, plain) = (coded(&secret), coded(&format!("\0{user}\0{secret}")));
        let secrets: &[&str] = if secret.is_empty() { &[] } else { &[&secret, &login, &plain] };
        result.map_err(|e| e.redact(secrets))
    }
}

#[cfg(test)]
mod tests;
