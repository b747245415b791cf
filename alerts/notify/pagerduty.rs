//! `pagerduty` receiver: Events API v2.
//!
//! ```toml
//! [receivers.oncall]
//! pagerduty = { routing_key = "file:/run/secrets/pd", severity = "critical" }
//! ```
//! One incident per group: `dedup_key` is the SHA-256 of the group key, so repeated and doubled
//! events update it. It is triggered while anything fires and resolved when all is over. 429 and
//! 5xx are tried again, 400 is not. Without `severity` that of the alerts is used where PagerDuty
//! knows it (`critical`, `error`, `warning`, `info`), else `critical`. At least once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use weir_pipeline::config::{self, Secret, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};

use super::notification::rfc3339;
use super::webhook::Address;
use super::{Channel, Notification, SecretRef, SendError, excerpt, http, sha256_hex};
use crate::transition::State;

/// Where events go.
const URL: &str = "https://events.pagerduty.com/v2/enqueue";
/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Longest `summary`, in characters (Events API v2).
const SUMMARY_CHARS_MAX: usize = 1024;
/// Largest body, in bytes (Events API v2).
const BODY_BYTES_MAX: usize = 512 << 10;
/// Runbooks that an incident links to: it is read by people.
const LINKS_MAX: usize = 20;
/// Longest link, in bytes: what browsers take.
const LINK_BYTES_MAX: usize = 2048;
/// How long to wait after a 429 that does not say: "minutes", by their documents.
const RATE_LIMITED: Duration = Duration::from_secs(60);
const SEVERITIES: [&str; 4] = ["critical", "error", "warning", "info"];

/// As written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Integration key of the service.
    routing_key: Secret,
    /// Another events endpoint (default the one of PagerDuty's US service region).
    url: Option<Spanned<String>>,
    /// `critical`, `error`, `warning` or `info`.
    severity: Option<Spanned<String>>,
    /// How `https` is done (default: the system's authorities are trusted).
    tls: Option<Spanned<TlsClient>>,
    /// Time for one attempt (default 10 s).
    timeout: Option<config::Duration>,
    /// Whether incidents are resolved (default true).
    pub(crate) send_resolved: Option<bool>,
}

/// As proved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Pagerduty {
    routing_key: SecretRef,
    url: Option<Address>,
    severity: Option<String>,
    #[serde(default)]
    tls: Option<TlsClient>,
    timeout: Duration,
}

impl Config {
    pub(crate) fn plan(&self, section: &Section) -> Result<(Channel, String), Diagnostics> {
        let mut problems = Diagnostics::default();
        let url = self.url.as_ref().and_then(|u| problems.ok(Address::plan(u, section)));
        if let Some(severity) = &self.severity
            && !SEVERITIES.contains(&severity.value.as_str())
        {
            let message = format!("PagerDuty knows no severity `{}`", severity.value);
            let label = "expected `critical`, `error`, `warning` or `info`";
            problems
                .push(Diagnostic::error("W152", message).at(&section.span(severity)).label(label));
        }
        let tls = problems.ok(http::plan_tls(self.tls.as_ref(), section)).flatten();
        if problems.has_errors() {
            return Err(problems);
        }
        let pagerduty = Pagerduty {
            routing_key: self.routing_key.clone().into(),
            url,
            severity: self.severity.as_ref().map(|s| s.value.clone()),
            tls,
            timeout: self.timeout.map_or(TIMEOUT, |d| d.0),
        };
        let name = self.routing_key.reference().to_owned();
        Ok((Channel::Pagerduty(pagerduty), name))
    }
}

impl Pagerduty {
    pub(super) async fn send(
        &self,
        clients: &http::Clients,
        notification: &Notification,
    ) -> Result<(), SendError> {
        let key = self.routing_key.reveal()?;
        let body = body(notification, &key, self.severity.as_deref())?;
        let client = clients.get(self.tls.as_ref())?;
        let request = match &self.url {
            Some(url) => client.post(url.read()?),
            None => client.post(URL),
        };
        let request = request.header("content-type", "application/json").body(body);
        let answer = http::exchange(request, self.timeout).await.map_err(|e| e.redact(&[&key]))?;
        answer.check().map_err(|e| {
            let limited = answer.status == ::http::StatusCode::TOO_MANY_REQUESTS;
            let after = e.after.or_else(|| limited.then_some(RATE_LIMITED));
            e.after(after).redact(&[&key])
        })
    }
}

/// One event. If it is too large its details are dropped, which is said in it, and then its links.
fn body(n: &Notification, key: &str, severity: Option<&str>) -> Result<Vec<u8>, SendError> {
    let action = match n.state() {
        State::Firing => "trigger",
        State::Resolved => "resolve",
    };
    let common = n.common_labels();
    let own = common.get("severity").map(String::as_str).filter(|s| SEVERITIES.contains(s));
    let firing = n.firing().next().or_else(|| n.alerts.first());
    let summary = match (n.alerts.as_slice(), firing) {
        ([one], _) => format!("{}: {}", n.title(), one.summary()),
        (_, Some(first)) => format!("{}: {} (and others)", n.title(), first.summary()),
        _ => n.title(),
    };
    let source = common.get("service.name").or_else(|| common.get("instance"));
    let mut event = json!({
        "routing_key": key,
        "event_action": action,
        "dedup_key": sha256_hex(&n.group_key),
        "client": "Weir",
        "client_url": n.external_url,
        "payload": {
            "summary": excerpt(&summary, SUMMARY_CHARS_MAX),
            "source": source.map_or("weir", String::as_str),
            "severity": severity.or(own).unwrap_or("critical"),
            "timestamp": rfc3339(firing.map_or(n.time, |a| a.starts_at)),
            "custom_details": details(n),
        },
        "links": links(n),
    });
    if let Some(name) = common.get("alertname") {
        event["payload"]["class"] = name.as_str().into();
    }
    let text = serde_json::to_vec(&event).map_err(|e| SendError::permanent(e.to_string()))?;
    if text.len() <= BODY_BYTES_MAX {
        return Ok(text);
    }
    event["payload"]["custom_details"] =
        json!({ "error": "custom details left out: the event would have been above 512 KB" });
    let text = serde_json::to_vec(&event).map_err(|e| SendError::permanent(e.to_string()))?;
    if text.len() <= BODY_BYTES_MAX {
        return Ok(text);
    }
    event["links"] = json!([]);
    serde_json::to_vec(&event).map_err(|e| SendError::permanent(e.to_string()))
}

fn details(n: &Notification) -> Value {
    let list = |alerts: Vec<&super::Notice>| -> Value {
        alerts
            .into_iter()
            .map(|a| {
                let value: Value = serde_json::from_str(&a.value).unwrap_or(Value::Null);
                json!({ "labels": a.labels, "annotations": a.annotations, "value": value })
            })
            .collect()
    };
    let mut map = Map::new();
    map.insert("firing".into(), list(n.firing().collect()));
    map.insert("resolved".into(), list(n.resolved().collect()));
    map.insert("num_firing".into(), n.firing().count().into());
    map.insert("num_resolved".into(), n.resolved().count().into());
    Value::Object(map)
}

/// The first runbooks that the alerts name; an empty `href` would be refused.
fn links(n: &Notification) -> Value {
    let mut seen = std::collections::BTreeSet::new();
    n.alerts
        .iter()
        .filter_map(|a| a.annotations.get("runbook_url"))
        .filter(|url| (1..=LINK_BYTES_MAX).contains(&url.len()) && seen.insert((*url).clone()))
        .take(LINKS_MAX)
        .map(|url| json!({ "href": url, "text": "Runbook" }))
        .collect()
}

#[cfg(test)]
mod tests;
