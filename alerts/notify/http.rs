//! What the HTTP receivers share: clients and their TLS, how answers and failures are classed, how
//! texts of the other side are cut down.

use std::time::Duration;

use http::{HeaderMap, StatusCode};
use weir_pipeline::config::{Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::tls::client_config;

use super::{SendError, excerpt};

/// Longest part of an answer that is read, in bytes: enough for its own words.
const ANSWER_BYTES_MAX: usize = 16 << 10;

/// Longest wait that is granted to a `Retry-After`.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// Clients without redirects: a notice holds data, and goes where it was sent.
pub(super) struct Clients {
    /// Of all receivers without `tls`.
    common: reqwest::Client,
}

impl Clients {
    pub(super) fn new() -> Result<Self, SendError> {
        Ok(Self { common: build(reqwest::Client::builder())? })
    }

    /// The client for these options. One with `tls` is made anew: notices are rare, and the files
    /// are then read as they are.
    pub(super) fn get(&self, tls: Option<&TlsClient>) -> Result<reqwest::Client, SendError> {
        let Some(tls) = tls else { return Ok(self.common.clone()) };
        build(reqwest::Client::builder().tls_backend_preconfigured(config(tls)?))
    }
}

/// `tls` as rustls takes it. Files may be mended by their owner, so this is tried again.
pub(super) fn config(tls: &TlsClient) -> Result<rustls::ClientConfig, SendError> {
    client_config(tls).map_err(|e| SendError::transient(e.to_string()))
}

fn build(builder: reqwest::ClientBuilder) -> Result<reqwest::Client, SendError> {
    builder
        .redirect(reqwest::redirect::Policy::none())
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .pool_idle_timeout(Duration::from_secs(60))
        .build()
        .map_err(|e| SendError::permanent(format!("http client: {}", describe(e))))
}

/// `tls` of a receiver as proved.
pub(super) fn plan_tls(
    tls: Option<&Spanned<TlsClient>>,
    section: &Section,
) -> Result<Option<TlsClient>, Diagnostics> {
    let Some(written) = tls else { return Ok(None) };
    if written.value.cert.is_some() != written.value.key.is_some() {
        let problem = Diagnostic::error("W150", "`cert` and `key` of `tls` need each other");
        return Err(problem.at(&section.span(written)).into());
    }
    Ok(Some(written.value.clone()))
}

/// An answer.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: String,
}

/// Sends `request`, reads a bounded part of the answer, all within `timeout`.
pub(super) async fn exchange(
    request: reqwest::RequestBuilder,
    timeout: Duration,
) -> Result<Answer, SendError> {
    let work = async {
        let mut response = request.send().await.map_err(|e| {
            let unsent = e.is_connect() || e.is_builder();
            let error = SendError::transient(describe(e));
            if unsent { error } else { error.in_doubt() }
        })?;
        let retry_after = retry_after(response.headers());
        let mut body = Vec::new();
        while body.len() < ANSWER_BYTES_MAX {
            match response.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                // The status decides; a torn body takes nothing back.
                Err(_) => break,
            }
        }
        body.truncate(ANSWER_BYTES_MAX);
        let body = String::from_utf8_lossy(&body).into_owned();
        Ok(Answer { status: response.status(), retry_after, body })
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => {
            Err(SendError::transient(format!("no answer within {} s", timeout.as_secs_f64()))
                .in_doubt())
        }
    }
}

/// `Retry-After` in seconds. (The date form is not used by the services we speak to.)
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(http::header::RETRY_AFTER)?.to_str().ok()?;
    let seconds: u64 = text.trim().parse().ok()?;
    Some(bounded(Duration::from_secs(seconds)))
}

/// A wait that the other side asks for, as far as it is granted.
pub(super) fn bounded(wait: Duration) -> Duration {
    wait.min(RETRY_AFTER_MAX)
}

impl Answer {
    /// 2xx is good; 429, 408 and 5xx are worth another try; the rest is not.
    pub(super) fn check(&self) -> Result<(), SendError> {
        if self.status.is_success() {
            return Ok(());
        }
        let words = excerpt(self.body.trim(), 300);
        let message = match words.is_empty() {
            true => format!("answered {}", self.status),
            false => format!("answered {}: {words}", self.status),
        };
        Err(class(self.status, message).after(self.retry_after))
    }
}

/// The class of an HTTP status that is no success.
pub(super) fn class(status: StatusCode, message: String) -> SendError {
    match status {
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => {
            SendError::transient(message)
        }
        StatusCode::SERVICE_UNAVAILABLE => SendError::transient(message),
        s if s.is_server_error() => SendError::transient(message).in_doubt(),
        _ => SendError::permanent(message),
    }
}

/// What went wrong with a request, without its URL, causes included.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
