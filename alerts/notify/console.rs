//! `console` receiver: one line per alert on standard output.
//!
//! ```toml
//! [receivers.here]
//! console = {}
//! ```
//! It is built in under the name `console`, and the default receiver.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::{Semaphore, oneshot};

use super::notification::rfc3339;
use super::{Channel, Notification, SendError};
use crate::transition::State;

/// Time for a turn, and then for one attempt.
const TIMEOUT: Duration = Duration::from_secs(10);

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

pub(super) async fn send(
    turn: Arc<Semaphore>,
    notification: &Notification,
) -> Result<(), SendError> {
    let text = lines(notification);
    write(turn, TIMEOUT, move || {
        let mut out = std::io::stdout().lock();
        out.write_all(text.as_bytes()).and_then(|()| out.flush())
    })
    .await
}

/// A terminal or pipe that nobody reads blocks: it has a thread of its own, which keeps its turn
/// until it is done, however long that takes, and does not hold up a stop.
async fn write(
    turn: Arc<Semaphore>,
    timeout: Duration,
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), SendError> {
    let blocked = || SendError::transient("standard output is blocked");
    let turn = tokio::time::timeout(timeout, turn.acquire_owned()).await;
    let turn = turn.map_err(|_| blocked())?.map_err(|_| blocked())?;
    let (done, written) = oneshot::channel();
    let thread = std::thread::Builder::new().name("console".to_owned());
    let failed = |e: std::io::Error| SendError::transient(format!("standard output: {e}"));
    let work = move || {
        let _ = done.send(work());
        drop(turn);
    };
    thread.spawn(work).map_err(failed)?;
    match tokio::time::timeout(timeout, written).await {
        Ok(Ok(result)) => result.map_err(failed),
        _ => Err(blocked().in_doubt()),
    }
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
    #![allow(clippy::unwrap_used)]
    use super::super::notification::samples::{notice, notification};
    use super::*;

    #[tokio::test]
    async fn a_blocked_output_blocks_nothing_else() {
        let turn = Arc::new(Semaphore::new(1));
        let limit = Duration::from_millis(20);
        let (free, blocked) = std::sync::mpsc::channel::<()>();
        let first = move || blocked.recv().map_err(std::io::Error::other);
        let error = write(turn.clone(), limit, first).await.unwrap_err();
        assert!(error.retry && error.doubt, "{error}");
        let error = write(turn.clone(), limit, || Ok(())).await.unwrap_err();
        assert!(error.retry && !error.doubt, "nothing was begun: {error}");
        free.send(()).unwrap();
        // The thread gives its turn back; no timeout is left to pass before it does.
        let _turn = turn.clone().acquire_owned().await.unwrap();
    }

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
