//! `slack` receiver: a bot token and `chat.postMessage`, or an incoming webhook.
//!
//! ```toml
//! [receivers.oncall]
//! slack = { channel = "#ops", token = "env:SLACK_TOKEN" }
//! [receivers.team]
//! slack = { webhook_url = "file:/run/secrets/slack_webhook" }
//! ```
//! `api_url` names another API endpoint. Messages stay within Slack's limits: at most 20 alerts
//! are shown, the rest is counted. An answer `ok: false` is an error; rate limits and failures on
//! Slack's side are tried again, with `Retry-After`. At least once.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use slack_morphism::errors::SlackClientError;
use slack_morphism::hyper_tokio::SlackClientHyperConnector;
use slack_morphism::prelude::*;
use weir_pipeline::config::{self, Secret, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};

use super::notification::rfc3339;
use super::webhook::Address;
use super::{Channel, Notice, Notification, SecretRef, SendError, excerpt, http};
use crate::transition::State;

/// Time for one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Alerts shown in one message: with their texts cut to [`TEXT_CHARS_MAX`] the whole stays below
/// the 13,200 characters past which Slack answers `msg_blocks_too_long`.
const ALERTS_MAX: usize = 20;
/// Characters of one alert's section.
const TEXT_CHARS_MAX: usize = 500;
/// Characters of a header block.
const HEADER_CHARS_MAX: usize = 150;
/// Characters of the text that stands for the blocks in notifications.
const FALLBACK_CHARS_MAX: usize = 1000;

/// As written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Channel name or id; needed with `token`.
    channel: Option<Spanned<String>>,
    /// Bot token (`xoxb-...`) with the scope `chat:write`.
    token: Option<Secret>,
    /// Incoming webhook instead of a token.
    webhook_url: Option<Secret>,
    /// Another API endpoint (default `https://slack.com/api`).
    api_url: Option<Spanned<String>>,
    /// How `https` is done (default: the system's authorities are trusted).
    tls: Option<Spanned<TlsClient>>,
    /// Time for one attempt (default 10 s).
    timeout: Option<config::Duration>,
    /// Whether it is told of what resolved (default true).
    pub(crate) send_resolved: Option<bool>,
}

/// As proved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Slack {
    way: Way,
    #[serde(default)]
    tls: Option<TlsClient>,
    timeout: Duration,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Way {
    Bot { channel: String, token: SecretRef, api_url: Option<Address> },
    Webhook(Address),
}

impl Config {
    pub(crate) fn plan(&self, section: &Section) -> Result<(Channel, String), Diagnostics> {
        let wrong = |message: &str, hint: &str| {
            Diagnostics::from(Diagnostic::error("W153", message).at(&section.header).hint(hint))
        };
        let timeout = self.timeout.map_or(TIMEOUT, |d| d.0);
        let tls = http::plan_tls(self.tls.as_ref(), section)?;
        let (way, name) = match (&self.token, &self.webhook_url) {
            (Some(token), None) => {
                let Some(channel) = self.channel.as_ref().filter(|c| !c.value.trim().is_empty())
                else {
                    return Err(wrong(
                        "`slack` with `token` needs a `channel`",
                        "write `slack = { channel = \"#ops\", token = \"env:SLACK_TOKEN\" }`",
                    ));
                };
                let api_url = match &self.api_url {
                    Some(url) => Some(Address::plan(url, section)?),
                    None => None,
                };
                let channel = channel.value.trim().to_owned();
                let token = token.clone().into();
                (Way::Bot { channel: channel.clone(), token, api_url }, channel)
            }
            (None, Some(url)) => {
                for (key, place) in [("channel", &self.channel), ("api_url", &self.api_url)] {
                    if let Some(place) = place {
                        let message = format!("`{key}` means nothing with `webhook_url`");
                        let hint = "an incoming webhook posts to the channel it was made for";
                        let problem = Diagnostic::error("W153", message).hint(hint);
                        return Err(problem.at(&section.span(place)).into());
                    }
                }
                let name = url.reference().to_owned();
                (Way::Webhook(Address::Reference(url.clone().into())), name)
            }
            _ => {
                return Err(wrong(
                    "`slack` needs exactly one of `token` and `webhook_url`",
                    "write `slack = { channel = \"#ops\", token = \"env:SLACK_TOKEN\" }`",
                ));
            }
        };
        Ok((Channel::Slack(Slack { way, tls, timeout }), name))
    }
}

impl Slack {
    pub(super) async fn send(
        &self,
        clients: &http::Clients,
        notification: &Notification,
    ) -> Result<(), SendError> {
        match &self.way {
            Way::Bot { channel, token, api_url } => {
                let secret = token.reveal()?;
                let api_url = api_url.as_ref().map(Address::read).transpose()?;
                let tls = self.tls.as_ref();
                let work = post_message(channel, &secret, api_url.as_ref(), tls, notification);
                match tokio::time::timeout(self.timeout, work).await {
                    Ok(result) => result.map_err(|e| e.redact(&[&secret])),
                    Err(_) => Err(SendError::transient(format!(
                        "no answer within {} s",
                        self.timeout.as_secs_f64()
                    ))
                    .in_doubt()),
                }
            }
            Way::Webhook(address) => {
                // The client library takes any 200 of a webhook for success; Slack's is `ok`.
                let url = address.read()?;
                let secrets = [url.to_string(), url.path().trim_matches('/').to_owned()];
                let secrets: Vec<&str> =
                    secrets.iter().map(String::as_str).filter(|s| s.len() > 3).collect();
                let body = SlackApiPostWebhookMessageRequest::new(content(notification, false));
                let request = clients.get(self.tls.as_ref())?.post(url).json(&body);
                let answer = http::exchange(request, self.timeout).await;
                answer.and_then(|a| webhook_answer(&a)).map_err(|e| e.redact(&secrets))
            }
        }
    }
}

fn webhook_answer(answer: &http::Answer) -> Result<(), SendError> {
    answer.check()?;
    let text = answer.body.trim();
    if text == "ok" {
        return Ok(());
    }
    let message = format!("answered {} with `{}`", answer.status, excerpt(text, 200));
    Err(match is_transient(text) {
        true => SendError::transient(message),
        false => SendError::permanent(message),
    })
}

async fn post_message(
    channel: &str,
    token: &str,
    api_url: Option<&url::Url>,
    tls: Option<&TlsClient>,
    notification: &Notification,
) -> Result<(), SendError> {
    let builder = hyper_rustls::HttpsConnectorBuilder::new();
    let builder = match tls {
        Some(tls) => builder.with_tls_config(http::config(tls)?),
        None => builder.with_webpki_roots(),
    };
    let connector = builder.https_or_http().enable_http1().build();
    let mut connector = SlackClientHyperConnector::with_connector(connector);
    if let Some(url) = api_url {
        connector = connector.with_slack_api_url(url.as_str().trim_end_matches('/'));
    }
    let client = SlackClient::new(connector);
    let token = SlackApiToken::new(SlackApiTokenValue(token.to_owned()));
    let request = SlackApiChatPostMessageRequest::new(channel.into(), content(notification, true))
        .with_unfurl_links(false)
        .with_unfurl_media(false);
    client.open_session(&token).chat_post_message(&request).await.map(drop).map_err(classify)
}

/// Slack's error codes that may pass by themselves.
fn is_transient(code: &str) -> bool {
    const TRANSIENT: [&str; 9] = [
        "ratelimited",
        "rate_limited",
        "message_limit_exceeded",
        "internal_error",
        "fatal_error",
        "request_timeout",
        "service_unavailable",
        "team_added_to_org",
        "rollup_error",
    ];
    TRANSIENT.contains(&code)
}

/// Which failures are worth another try. Bodies and URLs are left out: the code says enough.
fn classify(error: SlackClientError) -> SendError {
    match error {
        SlackClientError::RateLimitError(e) => {
            SendError::transient("rate limited").after(e.retry_after.map(http::bounded))
        }
        SlackClientError::ApiError(e) => {
            let mut message = format!("answered `{}`", e.code);
            if let Some(details) = e.errors.filter(|d| !d.is_empty()) {
                message = format!("{message}: {}", details.join("; "));
            }
            match is_transient(&e.code) {
                true => SendError::transient(message),
                false => SendError::permanent(message),
            }
        }
        SlackClientError::HttpError(e) => {
            http::class(e.status_code, format!("answered {}", e.status_code))
        }
        SlackClientError::ProtocolError(e) => {
            SendError::transient(format!("the answer is not what Slack sends: {}", e.json_error))
                .in_doubt()
        }
        SlackClientError::HttpProtocolError(e) => {
            let mut text = String::from("connection failed");
            let mut cause: Option<&(dyn std::error::Error + 'static)> =
                e.cause.as_ref().map(|c| &**c as &(dyn std::error::Error + 'static));
            let unsent = cause
                .and_then(|c| c.downcast_ref::<hyper_util::client::legacy::Error>())
                .is_some_and(hyper_util::client::legacy::Error::is_connect);
            while let Some(c) = cause {
                text = format!("{text}: {c}");
                cause = c.source();
            }
            let error = SendError::transient(text);
            if unsent { error } else { error.in_doubt() }
        }
        other => SendError::transient(other.to_string()),
    }
}

fn content(n: &Notification, bot: bool) -> SlackMessageContent {
    let mut blocks = vec![SlackBlock::Header(SlackHeaderBlock::new(
        SlackBlockPlainText::new(excerpt(&n.title(), HEADER_CHARS_MAX)).into(),
    ))];
    for alert in n.alerts.iter().take(ALERTS_MAX) {
        blocks.push(SlackBlock::Section(SlackSectionBlock::new().with_text(
            SlackBlockText::MarkDown(
                SlackBlockMarkDownText::new(section(alert)).with_verbatim(true),
            ),
        )));
    }
    let more = n.alerts.len().saturating_sub(ALERTS_MAX);
    let mut foot = String::new();
    if more > 0 {
        foot = format!("and {more} more · ");
    }
    foot.push_str(&format!("<{}|Weir> · {}", escape(&n.external_url), rfc3339(n.time)));
    let foot = SlackBlockMarkDownText::new(excerpt(&foot, TEXT_CHARS_MAX));
    blocks.push(SlackBlock::Context(SlackContextBlock::new(vec![
        SlackContextBlockElement::MarkDown(foot),
    ])));
    let summaries: Vec<&str> = n.alerts.iter().take(3).map(Notice::summary).collect();
    let text = cut(&format!("{}: {}", n.title(), summaries.join("; ")), FALLBACK_CHARS_MAX);
    let content = SlackMessageContent::new().with_text(text).with_blocks(blocks);
    if !bot {
        return content;
    }
    let payload = [("id".to_owned(), n.id.clone()), ("group".to_owned(), n.group_key.clone())];
    content.with_metadata(
        SlackMessageMetadata::new("weir_alert".to_owned())
            .with_event_payload(payload.into_iter().collect()),
    )
}

fn section(alert: &Notice) -> String {
    let mark = match alert.state {
        State::Firing => ":red_circle:",
        State::Resolved => ":large_green_circle:",
    };
    let head = format!("{mark} *{}*", cut(alert.name(), 60));
    let text = cut(alert.summary(), 220);
    let labels = alert.label_text();
    let mut out = format!("{head}\n{text}");
    if !labels.is_empty() {
        out = format!("{out}\n`{}`", cut(&labels, 130).replace('`', "'"));
    }
    if let Some(url) = alert.annotations.get("runbook_url").filter(|u| is_link(u)) {
        let link = format!("\n<{}|Runbook>", escape(url));
        // A link is whole or not there at all.
        if (out.chars().count() + link.chars().count()) <= TEXT_CHARS_MAX {
            out.push_str(&link);
        }
    }
    excerpt(&out, TEXT_CHARS_MAX)
}

/// Escaped, and cut to `chars_max` characters of what is sent, never inside of an entity.
fn cut(text: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let mut room = chars_max.saturating_sub(1);
    for c in text.chars() {
        let piece = escape(c.encode_utf8(&mut [0; 4]));
        let length = piece.chars().count();
        if length > room {
            out.push('…');
            return out;
        }
        room -= length;
        out.push_str(&piece);
    }
    out
}

/// Slack's three control characters.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

fn is_link(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://"))
        && !url.contains(|c: char| c.is_whitespace() || c == '|')
}

#[cfg(test)]
mod tests;
