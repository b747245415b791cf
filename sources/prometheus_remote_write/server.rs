//! Answering remote write requests.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use weir_pipeline::component::{Rejected, SourceContext, SourceSettings};
use weir_pipeline::intake::{Accepted, Refused, now};
use weir_pipeline::journal::Envelope;

use super::RemoteWritePlan;
use super::decode::EXEMPLAR;
use crate::http::{BodyError, Endpoint, HttpSource, Unauthorized, authorize, read_body};

/// Where it is served.
const PATH: &str = "/api/v1/write";
/// The message of remote write 2.0, in the `proto` parameter of the content type.
const VERSION_2: &str = "io.prometheus.write.v2.Request";

/// The running source.
pub(super) struct RemoteWrite {
    context: SourceContext,
}

/// Why a request is not answered 204.
#[derive(Debug)]
struct Failure {
    status: StatusCode,
    reason: &'static str,
    message: String,
    retry: Option<Duration>,
    challenge: Option<&'static str>,
}

impl Failure {
    fn new(status: StatusCode, reason: &'static str, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into(), retry: None, challenge: None }
    }

    fn retry(mut self, after: Duration) -> Self {
        self.retry = Some(after);
        self
    }

    fn answer(self) -> Response<Body> {
        let mut response = Response::new(Body::from(self.message + "\n"));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        let plain = HeaderValue::from_static("text/plain; charset=utf-8");
        headers.insert(header::CONTENT_TYPE, plain);
        if let Some(after) = self.retry {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(after.as_secs().max(1)));
        }
        if let Some(challenge) = self.challenge {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
        }
        if self.status == StatusCode::METHOD_NOT_ALLOWED {
            headers.insert(header::ALLOW, HeaderValue::from_static("POST"));
        }
        response
    }
}

impl From<BodyError> for Failure {
    fn from(error: BodyError) -> Self {
        let message = error.to_string();
        let second = Duration::from_secs(1);
        match error {
            BodyError::TooLarge(_) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
            }
            BodyError::Timeout => Self::new(StatusCode::REQUEST_TIMEOUT, "timeout", message),
            BodyError::Busy => {
                Self::new(StatusCode::TOO_MANY_REQUESTS, "busy", message).retry(second)
            }
            BodyError::Broken(_) => Self::new(StatusCode::BAD_REQUEST, "broken_off", message),
        }
    }
}

impl From<Refused> for Failure {
    /// The intake has counted these.
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        let retry = refused.retry();
        let status = match (&refused, retry) {
            (Refused::Malformed(e), _) if e.reason == "too_large" => StatusCode::PAYLOAD_TOO_LARGE,
            (_, None) => StatusCode::BAD_REQUEST,
            (_, Some((true, _))) => StatusCode::TOO_MANY_REQUESTS,
            (_, Some((false, _))) => StatusCode::SERVICE_UNAVAILABLE,
        };
        let retry = retry.map(|(_, after)| after);
        Self { status, reason: "", message, retry, challenge: None }
    }
}

impl HttpSource for RemoteWrite {
    fn endpoints(&self, settings: &SourceSettings) -> Vec<Endpoint> {
        let plan = settings.plan.as_any().downcast_ref::<RemoteWritePlan>();
        plan.map(RemoteWritePlan::endpoint).into_iter().collect()
    }

    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move {
            match self.write(request, peer).await {
                Ok(()) => {
                    let mut response = Response::new(Body::empty());
                    *response.status_mut() = StatusCode::NO_CONTENT;
                    response
                }
                Err(failure) => {
                    if !failure.reason.is_empty() {
                        let metrics = self.context.intake.metrics();
                        metrics.rejected(1, failure.reason, &failure.message, now());
                    }
                    failure.answer()
                }
            }
        })
    }
}

impl RemoteWrite {
    pub(super) fn new(context: SourceContext) -> Self {
        Self { context }
    }

    async fn write(&self, request: Request<Incoming>, peer: SocketAddr) -> Result<(), Failure> {
        // The settings of this moment count for the whole request.
        let settings = self.context.settings.borrow().clone();
        let Some(plan) = settings.plan.as_any().downcast_ref::<RemoteWritePlan>() else {
            let stopping = Failure::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", "stopping");
            return Err(stopping.retry(Duration::from_secs(1)));
        };
        let (head, body) = request.into_parts();
        if head.uri.path() != PATH {
            let message = format!("remote write is served at {PATH}");
            return Err(Failure::new(StatusCode::NOT_FOUND, "path", message));
        }
        if head.method != Method::POST {
            let message = "remote write requests are POST";
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, "method", message));
        }
        authorize(&plan.auth, &head.headers).map_err(|e| Failure {
            challenge: Some(Unauthorized::challenge(&plan.auth)),
            ..Failure::new(StatusCode::UNAUTHORIZED, "unauthorized", e.to_string())
        })?;
        let (content_type, encoding) = format(&head.headers)?;
        let body = read_body(body, plan.max_request_bytes, self.context.intake.gate()).await?;
        let envelope = Envelope {
            content_type,
            encoding,
            path: PATH.to_owned(),
            peer: peer.to_string(),
            ..Envelope::default()
        };
        let accepted = self
            .context
            .intake
            .accept(settings.generation, &*plan.decoder, envelope, body.bytes.clone(), Bytes::new())
            .await?;
        partly(&accepted)
    }
}

/// Content type and encoding, if they are those of remote write 1.0.
fn format(headers: &HeaderMap) -> Result<(String, String), Failure> {
    let text = |name| {
        let value = headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        value.unwrap_or_default().trim().to_ascii_lowercase()
    };
    let unsupported = |reason, message: String| {
        Err(Failure::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason, message))
    };
    let content_type = text(header::CONTENT_TYPE);
    let mut parts = content_type.split(';').map(str::trim);
    if !matches!(parts.next(), Some("" | "application/x-protobuf")) {
        let message = format!(
            "content type `{content_type}` is not remote write, expected `application/x-protobuf`"
        );
        return unsupported("content_type", message);
    }
    let proto = parts.find_map(|part| part.strip_prefix("proto="));
    if proto.is_some_and(|proto| proto.trim_matches('"') != "prometheus.writerequest") {
        let version_2 = VERSION_2.to_ascii_lowercase();
        let what = if proto == Some(&version_2) { "remote write 2.0" } else { "this message" };
        let message = format!("{what} is not taken, expected `prometheus.WriteRequest` (1.0)");
        return unsupported("content_type", message);
    }
    let encoding = text(header::CONTENT_ENCODING);
    if !matches!(encoding.as_str(), "" | "snappy") {
        let message = format!("content encoding `{encoding}` is not taken, expected `snappy`");
        return unsupported("encoding", message);
    }
    Ok((content_type, "snappy".to_owned()))
}

/// What to say where not all was taken: the sender must not repeat it, but should show it.
fn partly(accepted: &Accepted) -> Result<(), Failure> {
    let bad: Vec<&Rejected> = accepted.rejected.iter().filter(|r| r.reason != EXEMPLAR).collect();
    let left_out: u64 = bad.iter().map(|r| r.rows).sum();
    let Some(first) = bad.first() else { return Ok(()) };
    let message = format!(
        "{left_out} of {} samples were left out, the others are kept: {}",
        left_out + accepted.rows,
        first.message
    );
    // The intake has counted them.
    Err(Failure::new(StatusCode::BAD_REQUEST, "", message))
}
