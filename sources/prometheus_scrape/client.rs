//! One GET, within limits.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, header};
use weir_pipeline::config::ClientAuth;
use weir_pipeline::http_client::{credentials, describe};

/// As Prometheus 3 asks.
const ACCEPT: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
    application/openmetrics-text;version=0.0.1;q=0.5,\
    text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";

/// An answer.
#[derive(Debug, Default)]
pub(super) struct Page {
    pub(super) status: Option<u16>,
    pub(super) content_type: String,
    pub(super) encoding: String,
    pub(super) body: Bytes,
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
