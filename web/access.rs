//! Who may ask: names of this host, no foreign pages, bearer tokens where configured.
//!
//! The check of `Host` stops DNS rebinding, the check of `Origin` stops pages of other sites from
//! sending requests through a visitor's browser.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, Uri, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;
use weir_pipeline::config::Secret;

use crate::Web;
use crate::error::ApiError;

/// Tokens are read again this long after the last time, when one does not match.
const REREAD_AFTER: Duration = Duration::from_secs(1);

/// Who may ask.
#[derive(Debug)]
pub struct Access {
    hosts: Vec<String>,
    tokens: Vec<Secret>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    values: Vec<String>,
    read: Option<Instant>,
}

impl std::fmt::Debug for Known {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tokens", self.values.len())
    }
}

impl Access {
    /// `hosts` besides loopback names; `tokens`: any of them is taken, none means open.
    pub fn new(hosts: Vec<String>, tokens: Vec<Secret>) -> Self {
        let hosts = hosts.into_iter().map(|h| h.to_ascii_lowercase()).collect();
        Self { hosts, tokens, known: Mutex::default() }
    }

    fn host_allowed(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let loopback = name == "localhost"
            || name
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse::<IpAddr>()
                .is_ok_and(|ip| ip.to_canonical().is_loopback());
        loopback || self.hosts.iter().any(|h| *h == name || *h == host.to_ascii_lowercase())
    }

    fn token_allowed(&self, headers: &HeaderMap) -> bool {
        if self.tokens.is_empty() {
            return true;
        }
        let given = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
        let Some((scheme, token)) = given.and_then(|v| v.split_once(' ')) else { return false };
        if !scheme.eq_ignore_ascii_case("bearer") {
            return false;
        }
        let mut known = self.known.lock();
        if matches(&known.values, token.trim()) {
            return true;
        }
        // Secrets rotate: what is unknown may have become known.
        if known.read.is_some_and(|t| t.elapsed() < REREAD_AFTER) {
            return false;
        }
        known.read = Some(Instant::now());
        known.values = self
            .tokens
            .iter()
            .filter_map(|t| match t.reveal() {
                Ok(value) => Some(value),
                Err(e) => {
                    tracing::error!(error = %e, "a token of the API cannot be read");
                    None
                }
            })
            .filter(|value| !value.is_empty())
            .collect();
        matches(&known.values, token.trim())
    }
}

/// Whether `token` is one of `values`, in a time that tells nothing of where they differ.
fn matches(values: &[String], token: &str) -> bool {
    values.iter().fold(false, |found, value| {
        let same = value.len() == token.len()
            && value.bytes().zip(token.bytes()).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0;
        found | same
    })
}

fn without_port(host: &str) -> &str {
    if host.starts_with('[') {
        return host.split_inclusive(']').next().unwrap_or(host);
    }
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) && !name.contains(':') => {
            name
        }
        _ => host,
    }
}

/// Refuses foreign names and foreign pages.
pub(crate) async fn host_and_origin(
    State(web): State<Web>,
    request: Request,
    next: Next,
) -> Response {
    match check(&web.access, request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err(e) => e.into_response(),
    }
}

fn check(access: &Access, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let refuse = |code, message: String| Err(ApiError::new(StatusCode::FORBIDDEN, code, message));
    let mut named = headers.get_all(header::HOST).iter();
    let header_host = named.next();
    if named.next().is_some() {
        return refuse("host", "more than one `Host` header".into());
    }
    // HTTP/2 has it in the request line.
    let host = match (header_host, uri.authority()) {
        (Some(host), _) => host.to_str().unwrap_or_default(),
        (None, Some(authority)) => authority.as_str(),
        (None, None) => return refuse("host", "a request needs a `Host` header".into()),
    };
    if !access.host_allowed(host) {
        return refuse("host", format!("host `{host}` is not in `server.hosts`"));
    }
    if let Some(origin) = headers.get(header::ORIGIN) {
        let origin = origin.to_str().unwrap_or_default();
        let own = origin.split_once("://").is_some_and(|(_, o)| o.eq_ignore_ascii_case(host));
        if !own {
            return refuse("origin", "requests from pages of other sites are refused".into());
        }
    }
    if headers.get("sec-fetch-site").is_some_and(|v| v == "cross-site") {
        return refuse("origin", "requests from pages of other sites are refused".into());
    }
    Ok(())
}

/// Asks for a token where tokens are configured.
pub(crate) async fn token(State(web): State<Web>, request: Request, next: Next) -> Response {
    if web.access.token_allowed(request.headers()) {
        return next.run(request).await;
    }
    let message = "a bearer token of `server.auth` is needed";
    ApiError::new(StatusCode::UNAUTHORIZED, "unauthorized", message).into_response()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn hosts_and_origins() {
        let access = Access::new(vec!["weir.example".into()], Vec::new());
        let cases: &[(&str, Option<&str>, bool)] = &[
            ("localhost:9347", None, true),
            ("127.0.0.1:9347", None, true),
            ("127.8.8.8", None, true),
            ("[::1]:9347", None, true),
            ("[::ffff:127.0.0.1]", None, true),
            ("LOCALHOST", None, true),
            ("Weir.Example:443", None, true),
            ("evil.example", None, false),
            ("localhost.evil.example", None, false),
            ("127.0.0.1.evil.example", None, false),
            ("192.168.1.5:9347", None, false),
            ("0.0.0.0", None, false),
            ("", None, false),
            ("localhost:9347", Some("http://localhost:9347"), true),
            ("localhost:9347", Some("http://localhost:3000"), false),
            ("localhost:9347", Some("https://evil.example"), false),
            ("localhost:9347", Some("null"), false),
            ("weir.example", Some("https://weir.example"), true),
        ];
        for (host, origin, allowed) in cases {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, host.parse().unwrap());
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, origin.parse().unwrap());
            }
            let got = check(&access, &Uri::from_static("/"), &headers).is_ok();
            assert_eq!(got, *allowed, "{host} {origin:?}");
        }
        assert!(check(&access, &Uri::from_static("/"), &HeaderMap::new()).is_err());
    }
}
