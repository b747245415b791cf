//! The mail itself: text and HTML, headers that thread and deduplicate.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Message, MultiPart, MultiPartKind, SinglePart};

use super::Email;
use crate::notify::notification::rfc3339;
use crate::notify::{Notice, Notification, SendError, excerpt, sha256_hex};
use crate::transition::State;

/// Alerts spelled out in one mail.
const ALERTS_MAX: usize = 100;
/// Characters of the subject.
const SUBJECT_CHARS_MAX: usize = 200;

/// The whole message as it goes over the wire: ASCII only, quoted-printable or base64 inside.
pub(super) fn build(email: &Email, n: &Notification) -> Result<Vec<u8>, SendError> {
    let domain = email.from.0.email.domain();
    let thread = format!("<weir-{}@{domain}>", &sha256_hex(&n.group_key)[..32]);
    let subject = excerpt(&n.title(), SUBJECT_CHARS_MAX);
    let subject: String = subject.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let time = Duration::from_nanos(n.time.max(0).cast_unsigned());
    let mut builder = Message::builder()
        .from(email.from.0.clone())
        .subject(subject)
        .date(SystemTime::UNIX_EPOCH + time)
        .message_id(Some(format!("<{}@{domain}>", n.id)))
        .in_reply_to(thread.clone())
        .references(thread);
    for to in &email.to {
        builder = builder.to(to.0.clone());
    }
    // Not a random one: a repeated attempt is the same message.
    let body = MultiPart::builder()
        .kind(MultiPartKind::Alternative)
        .boundary(format!("weir-{}", n.id))
        .singlepart(SinglePart::plain(text(n)))
        .singlepart(SinglePart::html(html(n)));
    let mut message = builder.multipart(body).map_err(|e| SendError::permanent(e.to_string()))?;
    let auto = HeaderValue::new(
        HeaderName::new_from_ascii_str("Auto-Submitted"),
        "auto-generated".to_owned(),
    );
    message.headers_mut().insert_raw(auto);
    Ok(message.formatted())
}

fn when(alert: &Notice) -> String {
    match (alert.state, alert.ends_at) {
        (State::Resolved, Some(end)) => {
            format!("{} to {}", rfc3339(alert.starts_at), rfc3339(end))
        }
        _ => format!("since {}", rfc3339(alert.starts_at)),
    }
}

fn text(n: &Notification) -> String {
    let mut out = format!("{}\n", n.title());
    for alert in n.alerts.iter().take(ALERTS_MAX) {
        let _ = write!(
            out,
            "\n{}: {}\n  {}\n  {}\n",
            alert.state.as_str().to_uppercase(),
            alert.name(),
            alert.summary(),
            when(alert)
        );
        for (name, value) in alert.labels.iter().filter(|(k, _)| *k != "alertname") {
            let _ = writeln!(out, "  {name} = {value}");
        }
        for (name, value) in alert.annotations.iter().filter(|(k, _)| *k != "summary") {
            let _ = writeln!(out, "  {name}: {value}");
        }
    }
    if n.alerts.len() > ALERTS_MAX {
        let _ = writeln!(out, "\nand {} more", n.alerts.len() - ALERTS_MAX);
    }
    let _ = writeln!(out, "\n{}", n.external_url);
    out
}

fn html(n: &Notification) -> String {
    let mut out = format!("<html><body><h3>{}</h3>", escape(&n.title()));
    for alert in n.alerts.iter().take(ALERTS_MAX) {
        let color = if alert.state == State::Firing { "#c62828" } else { "#2e7d32" };
        let _ = write!(
            out,
            "<div style=\"border-left:4px solid {color};padding-left:8px;margin:12px 0\">\
             <b>{}</b> {}<br>{}<br><small>{}</small><table>",
            escape(alert.name()),
            alert.state.as_str(),
            escape(alert.summary()).replace('\n', "<br>"),
            escape(&when(alert))
        );
        let labels = alert.labels.iter().filter(|(k, _)| *k != "alertname");
        let annotations = alert.annotations.iter().filter(|(k, _)| *k != "summary");
        for (name, value) in labels.chain(annotations) {
            let _ = write!(out, "<tr><td>{}</td><td>{}</td></tr>", escape(name), escape(value));
        }
        out.push_str("</table></div>");
    }
    if n.alerts.len() > ALERTS_MAX {
        let _ = write!(out, "<p>and {} more</p>", n.alerts.len() - ALERTS_MAX);
    }
    let url = escape(&n.external_url);
    let _ = write!(out, "<p><a href=\"{url}\">{url}</a></p></body></html>");
    out
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
