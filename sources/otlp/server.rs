//! Answering OTLP requests.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use weir_pipeline::component::{Rejected, SourceContext, SourceSettings};
use weir_pipeline::intake::now;
use weir_pipeline::journal::Envelope;

use super::decode::{Format, signal};
use super::reply::{self, Code, Failure};
use super::{Plan, grpc};
use crate::http::{BodyError, Endpoint, HttpSource, Unauthorized, authorize, read_body};
use crate::inflate;

/// The running source.
pub(super) struct Otlp {
    context: SourceContext,
}

impl HttpSource for Otlp {
    fn endpoints(&self, settings: &SourceSettings) -> Vec<Endpoint> {
        settings.plan.as_any().downcast_ref::<Plan>().map(Plan::endpoints).unwrap_or_default()
    }

    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> BoxFuture<'static, Response<Body>> {
        Box::pin(async move { self.answer(request, peer).await })
    }
}

impl Otlp {
    pub(super) fn new(context: SourceContext) -> Self {
        Self { context }
    }

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<Body> {
        let content_type = text(request.headers(), header::CONTENT_TYPE.as_str()).to_owned();
        if grpc::is_grpc(&content_type) {
            return match self.export(request, peer, true).await {
                Ok(rejected) => grpc::taken(&reply::taken(&rejected)),
                Err(failure) => grpc::failed(&failure),
            };
        }
        let Some(signal) =
            signal(request.uri().path()).filter(|_| request.uri().path().starts_with("/v1/"))
        else {
            return plain(
                StatusCode::NOT_FOUND,
                "OTLP is served at /v1/logs, /v1/metrics, /v1/traces\n",
            );
        };
        if request.method() != Method::POST {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "OTLP requests are POST\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return response;
        }
        // An error has to be written in some format also if the request's is not known.
        let format = Format::of(&content_type).unwrap_or(Format::Json);
        match self.export(request, peer, false).await {
            Ok(rejected) => {
                let body = reply::taken(&rejected).body(&signal, format);
                respond(StatusCode::OK, format, body)
            }
            Err(failure) => self.failed(&failure, format),
        }
    }

    fn failed(&self, failure: &Failure, format: Format) -> Response<Body> {
        let status = StatusCode::from_u16(failure.http).unwrap_or(StatusCode::BAD_REQUEST);
        let mut response = respond(status, format, failure.body(format));
        let headers = response.headers_mut();
        if let Some(seconds) = failure.retry_s {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        match status {
            StatusCode::UNAUTHORIZED => {
                let settings = self.context.settings.borrow();
                if let Some(plan) = settings.plan.as_any().downcast_ref::<Plan>() {
                    let challenge = Unauthorized::challenge(&plan.auth);
                    headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
                }
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                let encodings = HeaderValue::from_static(inflate::ENCODINGS);
                headers.insert(header::ACCEPT_ENCODING, encodings);
            }
            _ => {}
        }
        response
    }

    /// Takes one request in, and gives what of it was left out.
    async fn export(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        is_grpc: bool,
    ) -> Result<Vec<Rejected>, Failure> {
        // The settings of this moment count for the whole request.
        let settings = self.context.settings.borrow().clone();
        let Some(plan) = settings.plan.as_any().downcast_ref::<Plan>() else {
            return Err(Failure::new(503, Code::Unavailable, "stopping").retry(1));
        };
        let (head, body) = request.into_parts();
        let path = head.uri.path();
        authorize(&plan.auth, &head.headers).map_err(|e| {
            let failure = Failure::new(401, Code::Unauthenticated, e.to_string());
            self.refused("unauthorized", failure)
        })?;
        if signal(path).is_none() {
            let message = format!("there is no method `{path}` here");
            return Err(Failure::new(404, Code::Unimplemented, message));
        }
        let content_type = text(&head.headers, header::CONTENT_TYPE.as_str());
        if Format::of(content_type).is_none() {
            let message = format!(
                "content type `{content_type}` is not OTLP, expected `application/x-protobuf` or \
                 `application/json`"
            );
            let failure = Failure::new(415, Code::InvalidArgument, message);
            return Err(self.refused("content_type", failure));
        }
        let encoding =
            text(&head.headers, if is_grpc { "grpc-encoding" } else { "content-encoding" });
        let encoding = encoding.to_ascii_lowercase();
        if !inflate::is_known(&encoding) {
            let message = format!(
                "content encoding `{encoding}` is not known, expected one of {}",
                inflate::ENCODINGS
            );
            let failure = Failure::new(415, Code::Unimplemented, message);
            return Err(self.refused("encoding", failure));
        }
        let prefix = if is_grpc { grpc::PREFIX_BYTES } else { 0 };
        let body =
            read_body(body, plan.max_request_bytes + prefix, self.context.intake.gate()).await;
        let body = body.map_err(|e| self.body_failed(&e))?;
        let (payload, encoding): (Bytes, String) = if is_grpc {
            grpc::message(&body.bytes, &encoding).map_err(|f| self.refused("malformed", f))?
        } else {
            (body.bytes.clone(), encoding)
        };
        let envelope = Envelope {
            content_type: content_type.to_owned(),
            encoding,
            path: path.to_owned(),
            peer: peer.to_string(),
            ..Envelope::default()
        };
        let intake = &self.context.intake;
        let accepted = intake
            .accept(settings.generation, &*plan.decoder, envelope, payload, Bytes::new())
            .await
            .map_err(Failure::from)?;
        Ok(accepted.rejected)
    }

    fn body_failed(&self, error: &BodyError) -> Failure {
        let message = error.to_string();
        let (reason, failure) = match error {
            BodyError::TooLarge(_) => {
                ("too_large", Failure::new(413, Code::ResourceExhausted, message))
            }
            BodyError::Timeout => ("timeout", Failure::new(408, Code::Cancelled, message)),
            BodyError::Busy => {
                ("busy", Failure::new(429, Code::ResourceExhausted, message).retry(1))
            }
            BodyError::Broken(_) => ("broken_off", Failure::new(400, Code::Cancelled, message)),
        };
        self.refused(reason, failure)
    }

    /// Counts a request that is refused before it is decoded.
    fn refused(&self, reason: &'static str, failure: Failure) -> Failure {
        self.context.intake.metrics().rejected(1, reason, &failure.message, now());
        failure
    }
}

/// A header as text, empty if it is missing.
fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default().trim()
}

fn respond(status: StatusCode, format: Format, body: Vec<u8>) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    let content_type = match format {
        Format::Protobuf => "application/x-protobuf",
        Format::Json => "application/json",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

fn plain(status: StatusCode, text: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}
