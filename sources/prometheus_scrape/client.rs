//! One GET, within limits.

use std::error::Error as _;
use std::fmt::Write;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use weir_pipeline::config::{ClientAuth, TlsClient};
use weir_pipeline::tls::client_config;

/// As Prometheus 3 asks.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,\
    text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// Redirects that are followed, all on the same host and scheme: credentials go along.
const REDIRECTS_MAX: usize = 5;

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) status: Option<u16>,
    pub(super) content_type: String,
    pub(super) encoding: String,
    pub(super) body: Bytes,
}

/// A client for all targets of one generation of settings.
///
/// # Errors
/// If a file of `tls` cannot be read or used.
pub(super) fn client(tls: Option<&TlsClient>) -> Result<reqwest::Client, String> {
    let tls = client_config(&tls.cloned().unwrap_or_default()).map_err(|e| e.to_string())?;
    let same_host = reqwest::redirect::Policy::custom(|attempt| {
        let first = attempt.previous().first();
        let origin = |url: &url::Url| {
            (
                url.scheme().to_owned(),
                url.host_str().map(str::to_owned),
                url.port_or_known_default(),
            )
        };
        let same = first.is_some_and(|first| origin(first) == origin(attempt.url()));
        if same && attempt.previous().len() <= REDIRECTS_MAX {
            attempt.follow()
        } else {
            attempt.stop()
        }
    });
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        // The body goes to the journal as it came.
        .no_gzip()
        .no_proxy()
        .redirect(same_host)
        .user_agent(concat!("weir/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|e| describe(&e))
}

/// Headers that prove who asks; secrets are read now.
///
/// # Errors
/// If a secret cannot be read, or cannot stand in a header.
fn credentials(auth: &ClientAuth) -> Result<HeaderMap, String> {
    use base64::Engine;
    let mut headers = HeaderMap::new();
    let mut set = |name: HeaderName, value: &str| {
        let bad = || format!("the value of header `{name}` cannot be sent");
        let mut value = HeaderValue::from_str(value).map_err(|_| bad())?;
        value.set_sensitive(true);
        headers.insert(name, value);
        Ok::<(), String>(())
    };
    if let Some(bearer) = &auth.bearer {
        let token = bearer.reveal().map_err(|e| e.to_string())?;
        set(header::AUTHORIZATION, &format!("Bearer {token}"))?;
    }
    if let Some(basic) = &auth.basic {
        let password = basic.password.reveal().map_err(|e| e.to_string())?;
        let pair = format!("{}:{password}", basic.username);
        let pair = base64::engine::general_purpose::STANDARD.encode(pair);
        set(header::AUTHORIZATION, &format!("Basic {pair}"))?;
    }
    for (name, value) in &auth.headers {
        let value = value.reveal().map_err(|e| e.to_string())?;
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|e| e.to_string())?;
        set(name, &value)?;
    }
    Ok(headers)
}

/// Asks `url`. What was learned before a failure is in `page`.
///
/// # Errors
/// Why there is no page to use; without secrets.
pub(super) async fn get(
    client: &reqwest::Client,
    url: &str,
    auth: &ClientAuth,
    (timeout, body_bytes_max): (Duration, usize),
    page: &mut Page,
) -> Result<(), String> {
    let request = client
        .get(url)
        .header(header::ACCEPT, ACCEPT)
        .header(header::ACCEPT_ENCODING, "gzip")
        .header("X-Prometheus-Scrape-Timeout-Seconds", timeout.as_secs_f64().to_string())
        .headers(credentials(auth)?);
    let work = async {
        let mut response = request.send().await.map_err(|e| describe(&e.without_url()))?;
        page.status = Some(response.status().as_u16());
        if response.status() != http::StatusCode::OK {
            return Err(format!("answered {}", response.status()));
        }
        let text = |name| {
            let value = response.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
            value.unwrap_or_default().trim().to_owned()
        };
        page.content_type = text(header::CONTENT_TYPE);
        page.encoding = text(header::CONTENT_ENCODING).to_ascii_lowercase();
        let mut body = Vec::new();
        while let Some(part) = response.chunk().await.map_err(|e| describe(&e.without_url()))? {
            if body.len() + part.len() > body_bytes_max {
                return Err(format!("the body is larger than {body_bytes_max} bytes"));
            }
            body.extend_from_slice(&part);
        }
        page.body = body.into();
        Ok(())
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs_f64())),
    }
}

/// An error with its causes, which alone say what happened.
fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        let _ = write!(text, ": {why}");
        cause = why.source();
    }
    text
}
