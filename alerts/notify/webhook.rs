//! `webhook` receiver: Alertmanager's JSON, version 4, by POST.
//!
//! ```toml
//! [receivers.tickets]
//! webhook = { url = "https://tickets.example/hook", max_alerts = 50, headers = { authorization = "file:/run/secrets/hook" } }
//! ```
//! `url` may be a reference (`env:NAME`, `file:PATH`) where the URL itself is secret. 2xx is
//! delivered; 429, 408 and 5xx are tried again, with `Retry-After`; anything else is given up
//! until the group's next turn. `tls = { ca = "...", cert = "...", key = "..." }` as in other
//! components. At least once.

use std::collections::BTreeMap;
use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use url::Url;
use weir_pipeline::config::{self, Header, Secret, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};

use super::notification::rfc3339;
use super::{Channel, Notice, Notification, SecretRef, SendError, http, short_hash};

/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);

/// As written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where to; an `http` or `https` URL, or a reference to one.
    url: Spanned<String>,
    /// Further headers: text, or references to secrets.
    #[serde(default)]
    headers: BTreeMap<String, Header>,
    /// Most alerts in one notice; 0 (the default) is all.
    #[serde(default)]
    max_alerts: usize,
    /// How `https` is done (default: the system's authorities are trusted).
    tls: Option<Spanned<TlsClient>>,
    /// Time for one attempt (default 10 s).
    timeout: Option<config::Duration>,
    /// Whether it is told of what resolved (default true).
    pub(crate) send_resolved: Option<bool>,
}

/// As proved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    url: Address,
    headers: Vec<(String, HeaderValue)>,
    max_alerts: usize,
    #[serde(default)]
    tls: Option<TlsClient>,
    timeout: Duration,
}

/// A header's value, or where to find it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum HeaderValue {
    Plain(String),
    Reference(SecretRef),
}

impl std::fmt::Debug for HeaderValue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Plain(_) => f.write_str("***"),
            Self::Reference(secret) => f.write_str(secret.reference()),
        }
    }
}

/// A URL, or where to find it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Address {
    /// As it stands.
    Plain(Url),
    /// To be read at every send.
    Reference(SecretRef),
}

impl Address {
    /// A URL as written, or a reference to one.
    pub(crate) fn plan(text: &Spanned<String>, section: &Section) -> Result<Self, Diagnostics> {
        if let Ok(secret) = Secret::parse(&text.value) {
            return Ok(Self::Reference(secret.into()));
        }
        match parse_url(&text.value) {
            Ok(url) => Ok(Self::Plain(url)),
            Err(message) => Err(Diagnostic::error("W150", message)
                .at(&section.span(text))
                .label("expected `https://...`, `env:NAME` or `file:PATH`")
                .into()),
        }
    }

    /// The URL as it is now.
    pub(crate) fn read(&self) -> Result<Url, SendError> {
        match self {
            Self::Plain(url) => Ok(url.clone()),
            Self::Reference(secret) => parse_url(&secret.reveal()?).map_err(SendError::permanent),
        }
    }

    /// A name for the destination that gives nothing away.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Plain(url) => {
                format!("{}-{}", url.host_str().unwrap_or_default(), short_hash(url.as_str()))
            }
            Self::Reference(secret) => secret.reference().to_owned(),
        }
    }
}

/// The message never repeats the text: it may be secret.
fn parse_url(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|e| format!("not a URL: {e}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err("not an http or https URL".to_owned());
    }
    Ok(url)
}

impl Config {
    pub(crate) fn plan(&self, section: &Section) -> Result<(Channel, String), Diagnostics> {
        let mut problems = Diagnostics::default();
        for name in self.headers.keys() {
            if ::http::HeaderName::from_bytes(name.as_bytes()).is_err() {
                let message = format!("`{name}` cannot be the name of a header");
                problems.push(Diagnostic::error("W151", message).at(&section.span(&self.url)));
            }
        }
        let url = problems.ok(Address::plan(&self.url, section));
        let tls = problems.ok(http::plan_tls(self.tls.as_ref(), section));
        match url.zip(tls) {
            Some((url, tls)) if !problems.has_errors() => {
                let name = url.name();
                let webhook = Webhook {
                    url,
                    headers: self.headers.iter().map(header).collect(),
                    max_alerts: self.max_alerts,
                    tls,
                    timeout: self.timeout.map_or(TIMEOUT, |d| d.0),
                };
                Ok((Channel::Webhook(webhook), name))
            }
            _ => Err(problems),
        }
    }
}

fn header((name, value): (&String, &Header)) -> (String, HeaderValue) {
    let value = match value {
        Header::Plain(text) => HeaderValue::Plain(text.clone()),
        Header::Secret(secret) => HeaderValue::Reference(secret.clone().into()),
    };
    (name.clone(), value)
}

impl Webhook {
    pub(super) async fn send(
        &self,
        clients: &http::Clients,
        notification: &Notification,
    ) -> Result<(), SendError> {
        let url = self.url.read()?;
        let mut secrets = vec![url.to_string(), url.path().trim_matches('/').to_owned()];
        secrets.extend(url.query().map(str::to_owned));
        secrets.extend(url.password().map(str::to_owned));
        let body = payload(notification, self.max_alerts);
        let mut request = clients.get(self.tls.as_ref())?.post(url).json(&body);
        for (name, value) in &self.headers {
            let value = match value {
                HeaderValue::Plain(text) => text.clone(),
                HeaderValue::Reference(secret) => secret.reveal()?,
            };
            request = request.header(name, &value);
            secrets.push(value);
        }
        let secrets: Vec<&str> =
            secrets.iter().map(String::as_str).filter(|s| s.len() > 3).collect();
        let answer = http::exchange(request, self.timeout).await;
        answer.and_then(|a| a.check()).map_err(|e| e.redact(&secrets))
    }
}

/// Alertmanager `notify/webhook` message, version 4.
fn payload(n: &Notification, max_alerts: usize) -> Value {
    let keep = if max_alerts == 0 { n.alerts.len() } else { max_alerts.min(n.alerts.len()) };
    json!({
        "version": "4",
        "groupKey": n.group_key,
        "truncatedAlerts": n.alerts.len() - keep,
        "receiver": quote_meta(&n.receiver),
        "status": n.state().as_str(),
        "notification_reason": n.reason,
        "alerts": n.alerts[..keep].iter().map(|a| alert(a, &n.external_url)).collect::<Vec<_>>(),
        "groupLabels": n.group_labels,
        "commonLabels": n.common_labels(),
        "commonAnnotations": n.common_annotations(),
        "routeLabels": {},
        "externalURL": n.external_url,
    })
}

fn alert(a: &Notice, external_url: &str) -> Value {
    json!({
        "status": a.state.as_str(),
        "labels": a.labels,
        "annotations": a.annotations,
        "startsAt": rfc3339(a.starts_at),
        "endsAt": a.ends_at.map_or("0001-01-01T00:00:00Z".to_owned(), rfc3339),
        "generatorURL": external_url,
        "fingerprint": a.fingerprint,
    })
}

/// Go's `regexp.QuoteMeta`, which Alertmanager applies to the receiver's name.
fn quote_meta(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if r"\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests;
