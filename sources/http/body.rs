//! Reading request bodies within limits.

use std::pin::pin;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::{Instant, timeout_at};
use weir_pipeline::admission::{Gate, Tickets};

/// The next part of a body has to come within this time.
const NEXT: Duration = Duration::from_secs(15);
/// The whole of a body has to come within this time.
const WHOLE: Duration = Duration::from_secs(120);

/// Why a body was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BodyError {
    /// It is longer than allowed.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
    /// It came too slowly.
    #[error("the body came too slowly")]
    Timeout,
    /// Other requests hold all the memory there is for bodies.
    #[error("too many requests are under way; retry after 1 s")]
    Busy,
    /// The sender went away, or broke the protocol.
    #[error("the body broke off: {0}")]
    Broken(String),
}

/// A body in memory; dropping it gives its tickets back.
#[derive(Debug)]
pub(crate) struct Taken {
    /// The bytes.
    pub(crate) bytes: Bytes,
    _tickets: Option<Tickets>,
}

/// Reads a body of at most `limit` bytes. A longer one is refused at once if it says so, else as
/// soon as it is.
///
/// # Errors
/// [`BodyError`].
pub(crate) async fn read_body<B>(body: B, limit: usize, gate: &Gate) -> Result<Taken, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    read_within(body, limit, gate, (NEXT, WHOLE)).await
}

/// [`read_body`] with its time limits.
pub(super) async fn read_within<B>(
    body: B,
    limit: usize,
    gate: &Gate,
    (next, whole): (Duration, Duration),
) -> Result<Taken, BodyError>
where
    B: Body<Data = Bytes>,
    B::Error: std::fmt::Display,
{
    let announced = body.size_hint();
    if announced.lower() > limit as u64 {
        return Err(BodyError::TooLarge(limit));
    }
    let mut body = pin!(body);
    let mut tickets: Option<Tickets> = None;
    // One part is the usual case and is passed on without a copy.
    let mut first = Bytes::new();
    let mut rest = BytesMut::new();
    let end = Instant::now() + whole;
    loop {
        let frame = match timeout_at(end.min(Instant::now() + next), body.frame()).await {
            Err(_) => return Err(BodyError::Timeout),
            Ok(None) => break,
            Ok(Some(Err(e))) => return Err(BodyError::Broken(e.to_string())),
            Ok(Some(Ok(frame))) => frame,
        };
        let Ok(part) = frame.into_data() else { continue };
        let length = first.len() + rest.len() + part.len();
        if length > limit {
            return Err(BodyError::TooLarge(limit));
        }
        // For what has come, not for what was announced: a slow sender holds up nobody.
        if !gate.received(&mut tickets, length) {
            return Err(BodyError::Busy);
        }
        if first.is_empty() && rest.is_empty() {
            first = part;
        } else {
            if rest.is_empty() {
                rest.reserve(announced.exact().map_or(2 * length, |n| n as usize).min(limit));
                rest.extend_from_slice(&std::mem::take(&mut first));
            }
            rest.extend_from_slice(&part);
        }
    }
    let bytes = if rest.is_empty() { first } else { rest.freeze() };
    Ok(Taken { bytes, _tickets: tickets })
}
