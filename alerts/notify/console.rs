//! `console` receiver: one line per alert on standard output.
//!
//! ```toml
//! [receivers.here]
//! console = {}
//! ```
//! It is built in under the name `console`, and the default receiver.

use std::io::Write;

use schemars::JsonSchema;
use serde::Deserialize;

use super::notification::rfc3339;
use super::{Channel, Notification, SendError};
use crate::transition::State;

/// As written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Whether it tells what resolved (default true).
    pub(crate) send_resolved: Option<bool>,
}

impl Config {
    pub(crate) fn plan(&self) -> (Channel, String) {
        (Channel::Console, "stdout".to_owned())
    }
}

pub(super) fn send(notification: &Notification) -> Result<(), SendError> {
    let text = lines(notification);
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .map_err(|e| SendError::transient(format!("standard output: {e}")))
}

/// `ALERT firing error_burst since 2026-..: 12 errors {service.name=cart}`.
fn lines(notification: &Notification) -> String {
    let mut out = String::new();
    for alert in &notification.alerts {
        let when = match (alert.state, alert.ends_at) {
            (State::Resolved, Some(end)) => format!("at {}", rfc3339(end)),
            _ => format!("since {}", rfc3339(alert.starts_at)),
        };
        // One line per alert, whatever a label holds.
        let line = format!(
            "ALERT {} {} {when}: {} {{{}}}",
            alert.state.as_str(),
            alert.name(),
            alert.summary(),
            alert.label_text()
        );
        out.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
        out.push('\n');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::notification::samples::{notice, notification};
    use super::*;

    #[test]
    fn one_line_per_alert() {
        let n = notification(vec![
            notice(&[("alertname", "a"), ("job", "x\ny")], State::Firing, "12 errors"),
            notice(&[("alertname", "a"), ("job", "z")], State::Resolved, "13 errors"),
        ]);
        assert_eq!(
            lines(&n),
            "ALERT firing a since 2023-11-14T22:13:20Z: 12 errors {job=x y}\n\
             ALERT resolved a at 2023-11-14T22:14:20Z: 13 errors {job=z}\n"
        );
    }
}
