//! The way to a running server, and to the terminal.

use std::fmt;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::Value;
use weir_pipeline::config::Secret;

use crate::cli::Remote;

/// Something was reached, and it is not well.
pub(crate) const DEGRADED: u8 = 1;
/// Nothing was reached.
const UNREACHABLE: u8 = 2;
/// Time to connect: the server is near.
const CONNECT: Duration = Duration::from_secs(5);
/// Time for what is not streamed; a reload has a minute.
const ANSWER: Duration = Duration::from_secs(70);

/// Prints a line. A reader that went away is no error: there is nobody to tell.
pub(crate) fn out(text: &str) {
    let mut stdout = std::io::stdout().lock();
    let _ = stdout.write_all(text.as_bytes());
    if !text.ends_with('\n') {
        let _ = stdout.write_all(b"\n");
    }
}

/// Why the server did not do what was asked.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It was not reached, or did not answer.
    Unreachable(String),
    /// It refused; `place` is line and column of the mistake in what was sent.
    Refused { message: String, place: Option<(u64, u64)> },
    /// The question cannot be asked.
    Usage(String),
}

impl Failure {
    /// Prints it; gives the exit code that says so to scripts.
    pub(crate) fn exit(&self) -> ExitCode {
        let text = self.to_string();
        // What is wrong with a file says what it is itself.
        let head = if text.starts_with("error[") { "" } else { "error: " };
        eprintln!("{head}{text}");
        match self {
            Self::Unreachable(_) => ExitCode::from(UNREACHABLE),
            Self::Refused { .. } | Self::Usage(_) => ExitCode::from(DEGRADED),
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => {
                write!(f, "{why}\nhint: is Weir running there? `--url` or WEIR_URL names another")
            }
            Self::Refused { message, .. } | Self::Usage(message) => f.write_str(message),
        }
    }
}

/// A running server, asked one thing after another.
pub(crate) struct Client {
    base: reqwest::Url,
    token: Option<String>,
    http: reqwest::Client,
    runtime: tokio::runtime::Runtime,
}

impl Client {
    /// Nothing is sent yet.
    pub(crate) fn new(remote: &Remote) -> Result<Self, Failure> {
        let usage = |message: String| Failure::Usage(message);
        let base: reqwest::Url =
            remote.url.parse().map_err(|e| usage(format!("not a URL: `{}`: {e}", remote.url)))?;
        if base.cannot_be_a_base() || !matches!(base.scheme(), "http" | "https") {
            return Err(usage(format!("not an http or https URL: `{}`", remote.url)));
        }
        let token = remote.token.as_ref().map(|text| {
            let secret = Secret::parse(text).map_err(|e| usage(format!("token: {e}")))?;
            secret.reveal().map_err(|e| usage(e.to_string()))
        });
        let mut http = reqwest::Client::builder()
            .connect_timeout(CONNECT)
            .redirect(reqwest::redirect::Policy::none())
            .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")));
        if let Some(path) = &remote.ca {
            let file = path.display();
            let pem = std::fs::read(path).map_err(|e| usage(format!("file `{file}`: {e}")))?;
            let certificates = reqwest::Certificate::from_pem_bundle(&pem)
                .map_err(|e| usage(format!("file `{file}` holds no certificates: {e}")))?;
            http = http.tls_certs_only(certificates);
        } else if base.scheme() == "http" {
            // Not even looked for: a small container has none.
            http = http.tls_certs_only([]);
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| usage(e.to_string()))?;
        let http = http.build().map_err(|e| usage(causes(&e)))?;
        Ok(Self { base, token: token.transpose()?, http, runtime })
    }

    /// The answer to a GET, as JSON.
    pub(crate) fn get(&self, path: &[&str]) -> Result<Value, Failure> {
        self.json(self.request(Method::GET, path)?.timeout(ANSWER))
    }

    /// The answer to a POST without a body, as JSON.
    pub(crate) fn post(&self, path: &[&str]) -> Result<Value, Failure> {
        self.json(self.request(Method::POST, path)?.timeout(ANSWER))
    }

    /// A request to `path`, whose parts are escaped.
    pub(crate) fn request(&self, method: Method, path: &[&str]) -> Result<RequestBuilder, Failure> {
        let mut url = self.base.clone();
        match url.path_segments_mut() {
            Ok(mut segments) => segments.pop_if_empty().extend(path),
            Err(()) => {
                return Err(Failure::Usage(format!("not a URL with paths: `{}`", self.base)));
            }
        };
        let request = self.http.request(method, url);
        Ok(match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        })
    }

    /// Sends a request; the answer as JSON.
    pub(crate) fn json(&self, request: RequestBuilder) -> Result<Value, Failure> {
        self.runtime.block_on(async {
            let response = send(request).await?;
            let body = response.bytes().await.map_err(|e| Failure::Unreachable(causes(&e)))?;
            serde_json::from_slice(&body).map_err(|e| {
                Failure::Unreachable(format!("the answer is no JSON, is this Weir? {e}"))
            })
        })
    }

    /// Sends a request and hands in each line of the answer, JSON, as it comes.
    pub(crate) fn lines(
        &self,
        request: RequestBuilder,
        mut take: impl FnMut(Value),
    ) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut response = send(request).await?;
            let mut held: Vec<u8> = Vec::new();
            loop {
                let chunk = response.chunk().await.map_err(|e| {
                    Failure::Unreachable(format!("the answer broke off: {}", causes(&e)))
                })?;
                let Some(chunk) = chunk else { return Ok(()) };
                held.extend_from_slice(&chunk);
                while let Some(end) = held.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = held.drain(..=end).collect();
                    take(serde_json::from_slice(&line).map_err(|e| {
                        Failure::Unreachable(format!("the answer is no JSON, is this Weir? {e}"))
                    })?);
                }
            }
        })
    }

    /// Sends a request and copies the answer to standard output as it comes. Ends early, and well,
    /// if nobody reads that any more.
    pub(crate) fn copy(&self, request: RequestBuilder) -> Result<(), Failure> {
        self.runtime.block_on(async {
            let mut response = send(request).await?;
            for warning in warnings(&response) {
                eprintln!("warning: {warning}");
            }
            let mut stdout = std::io::stdout().lock();
            loop {
                match response.chunk().await {
                    Ok(Some(chunk)) => {
                        let written = stdout.write_all(&chunk).and_then(|()| stdout.flush());
                        if written.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(None) => return Ok(()),
                    Err(e) => {
                        let message = format!("the answer broke off: {}", causes(&e));
                        return Err(Failure::Refused { message, place: None });
                    }
                }
            }
        })
    }
}

async fn send(request: RequestBuilder) -> Result<Response, Failure> {
    let response = request.send().await.map_err(|e| Failure::Unreachable(causes(&e)))?;
    let status = response.status();
    if status.is_success() {
        return Ok(response);
    }
    let body = response.text().await.unwrap_or_default();
    let error = serde_json::from_str::<Value>(&body).unwrap_or_default();
    let error = &error["error"];
    let place = error["position"]["line"].as_u64().zip(error["position"]["column"].as_u64());
    let mut message = match error["message"].as_str() {
        Some(message) => message.to_owned(),
        None => format!("the server answered {status}"),
    };
    if status == StatusCode::UNAUTHORIZED {
        message += "\nhint: give a token with `--token env:NAME` or `--token file:PATH`";
    }
    Err(Failure::Refused { message, place })
}

/// What a query warns of before its first row.
fn warnings(response: &Response) -> Vec<String> {
    let header = response.headers().get("weir-warnings").and_then(|v| v.to_str().ok());
    header.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// An error with its causes: that of reqwest alone only says that something failed.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

/// Runs a subcommand against a server; its exit code.
pub(crate) fn with(
    remote: &Remote,
    work: impl FnOnce(&Client) -> Result<ExitCode, Failure>,
) -> ExitCode {
    Client::new(remote).and_then(|client| work(&client)).unwrap_or_else(|failure| failure.exit())
}

/// Prints JSON for machines.
pub(crate) fn out_json(value: &Value) {
    out(&serde_json::to_string_pretty(value).unwrap_or_default());
}
