//! gRPC as far as a unary method needs it (gRPC over HTTP/2, "Requests", "Responses").
//!
//! Requests are taken apart here, and not by a stub, so that the journal gets the message as it
//! arrived, compressed if it was.

use std::fmt::Write;

use axum::body::Body;
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response};
use http_body_util::{BodyExt, Full};
use prost::Message;

use super::reply::{Code, ExportResponse, Failure};

/// Bytes before a message: compression flag and length.
pub(super) const PREFIX_BYTES: usize = 5;

/// Whether the content type is one of gRPC.
pub(super) fn is_grpc(content_type: &str) -> bool {
    let rest = content_type.strip_prefix("application/grpc");
    rest.is_some_and(|r| r.is_empty() || r.starts_with('+') || r.starts_with(';'))
}

/// The one message of a request body, and its encoding.
///
/// # Errors
/// If the body is not exactly one message, or is compressed and `encoding` does not say how.
pub(super) fn message(body: &Bytes, encoding: &str) -> Result<(Bytes, String), Failure> {
    let wrong = |why: &str| Failure::new(400, Code::InvalidArgument, why);
    let Some((prefix, rest)) = body.split_at_checked(PREFIX_BYTES) else {
        return Err(wrong("the body is shorter than a gRPC message prefix"));
    };
    let length = prefix[1..].iter().fold(0_usize, |n, b| n << 8 | usize::from(*b));
    if length != rest.len() {
        return Err(wrong("the body is not exactly one gRPC message"));
    }
    let encoding = match (prefix[0], encoding) {
        (0, _) => "",
        (1, "" | "identity") => {
            return Err(wrong("the message is compressed, but `grpc-encoding` does not say how"));
        }
        (1, encoding) => encoding,
        _ => return Err(wrong("the compression flag of the message is neither 0 nor 1")),
    };
    Ok((body.slice(PREFIX_BYTES..), encoding.to_owned()))
}

/// The answer to a request that was taken.
pub(super) fn taken(answer: &ExportResponse) -> Response<Body> {
    let mut body = BytesMut::with_capacity(PREFIX_BYTES + answer.encoded_len());
    body.put_u8(0);
    body.put_u32(answer.encoded_len() as u32);
    body.extend_from_slice(&answer.encode_to_vec());
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let body = Full::new(body.freeze()).with_trailers(async move { Some(Ok(trailers)) });
    respond(Body::new(body))
}

/// The answer to a request that was not taken: headers only.
pub(super) fn failed(failure: &Failure) -> Response<Body> {
    let mut response = respond(Body::empty());
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from(failure.code as i32));
    if let Ok(message) = HeaderValue::try_from(percent(&failure.message)) {
        headers.insert("grpc-message", message);
    }
    let details = STANDARD_NO_PAD.encode(failure.status().encode_to_vec());
    if let Ok(details) = HeaderValue::try_from(details) {
        headers.insert("grpc-status-details-bin", details);
    }
    response
}

fn respond(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-accept-encoding", HeaderValue::from_static("identity,gzip,zstd"));
    response
}

/// Longest message in a header, in bytes: senders limit all headers together, often to 8 KiB.
const MESSAGE_BYTES_MAX: usize = 1 << 10;

/// A message as `grpc-message` wants it: printable ASCII, the rest percent-encoded.
fn percent(message: &str) -> String {
    let mut out = String::new();
    for b in message.bytes().take(MESSAGE_BYTES_MAX) {
        match b {
            b'%' | 0..0x20 | 0x7f.. => {
                let _ = write!(out, "%{b:02X}");
            }
            _ => out.push(b.into()),
        }
    }
    out
}
