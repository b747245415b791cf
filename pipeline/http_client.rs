//! The HTTP client of components that ask or send: its TLS, its credentials, its errors.

use std::error::Error as _;
use std::fmt::Write;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::config::{ClientAuth, TlsClient};
use crate::tls::client_config;

/// Redirects that are followed, all on the same host and scheme: credentials go along.
const REDIRECTS_MAX: usize = 5;

/// A client with these settings.
///
/// # Errors
/// If a file of `tls` cannot be read or used.
pub fn client(tls: Option<&TlsClient>) -> Result<reqwest::Client, String> {
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
pub fn credentials(auth: &ClientAuth) -> Result<HeaderMap, String> {
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

/// An error with its causes, which alone say what happened.
pub fn describe(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(why) = cause {
        let _ = write!(text, ": {why}");
        cause = why.source();
    }
    text
}
