//! What senders are answered: OTLP export responses and `google.rpc.Status`.

use prost::Message;
use weir_pipeline::component::{DecodeError, Rejected};
use weir_pipeline::intake::Refused;
use weir_pipeline::signal::Signal;

use super::decode::Format;
use crate::json;

/// Response of all three export methods: their messages have one layout.
#[derive(Clone, PartialEq, Message)]
pub(super) struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    pub partial_success: Option<PartialSuccess>,
}

/// `Export…PartialSuccess`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct PartialSuccess {
    /// Records left out.
    #[prost(int64, tag = "1")]
    pub rejected: i64,
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Status {
    #[prost(int32, tag = "1")]
    pub code: i32,
    #[prost(string, tag = "2")]
    pub message: String,
    #[prost(message, repeated, tag = "3")]
    pub details: Vec<AnyMessage>,
}

/// `google.protobuf.Any`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct AnyMessage {
    #[prost(string, tag = "1")]
    pub type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    pub value: Vec<u8>,
}

/// `google.rpc.RetryInfo`, with its `google.protobuf.Duration`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct RetryInfo {
    #[prost(message, optional, tag = "1")]
    pub retry_delay: Option<Seconds>,
}

/// `google.protobuf.Duration` in whole seconds.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Seconds {
    #[prost(int64, tag = "1")]
    pub seconds: i64,
}

/// The gRPC codes in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Code {
    InvalidArgument = 3,
    ResourceExhausted = 8,
    Unimplemented = 12,
    Unavailable = 14,
    Unauthenticated = 16,
    Cancelled = 1,
}

/// Why a request was not taken, for either protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// HTTP status.
    pub http: u16,
    /// gRPC status.
    pub code: Code,
    /// For the sender.
    pub message: String,
    /// When to try again, in seconds; `None` if that does not help.
    pub retry_s: Option<u64>,
}

impl Failure {
    pub(super) fn new(http: u16, code: Code, message: impl Into<String>) -> Self {
        Self { http, code, message: message.into(), retry_s: None }
    }

    pub(super) fn retry(mut self, seconds: u64) -> Self {
        self.retry_s = Some(seconds.max(1));
        self
    }

    /// As `google.rpc.Status`.
    pub(super) fn status(&self) -> Status {
        let details = self.retry_s.map(|s| AnyMessage {
            type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
            value: RetryInfo { retry_delay: Some(Seconds { seconds: s as i64 }) }.encode_to_vec(),
        });
        let details = details.into_iter().collect();
        Status { code: self.code as i32, message: self.message.clone(), details }
    }

    /// The body of an HTTP answer.
    pub(super) fn body(&self, format: Format) -> Vec<u8> {
        match format {
            Format::Protobuf => self.status().encode_to_vec(),
            Format::Json => {
                let mut out = format!("{{\"code\":{},\"message\":", self.code as i32);
                json::text(&self.message, &mut out);
                out.push('}');
                out.into_bytes()
            }
        }
    }
}

impl From<DecodeError> for Failure {
    fn from(e: DecodeError) -> Self {
        match e.reason {
            "too_large" | "too_wide" => Self::new(413, Code::ResourceExhausted, e.message),
            "encoding" => Self::new(415, Code::Unimplemented, e.message),
            "content_type" => Self::new(415, Code::InvalidArgument, e.message),
            _ => Self::new(400, Code::InvalidArgument, e.message),
        }
    }
}

impl From<Refused> for Failure {
    fn from(e: Refused) -> Self {
        let message = e.to_string();
        let retry = e.retry();
        match (e, retry) {
            (Refused::Malformed(e), _) => e.into(),
            (_, Some((true, after))) => {
                Self::new(429, Code::ResourceExhausted, message).retry(after.as_secs())
            }
            (_, after) => {
                let after = after.map_or(1, |(_, after)| after.as_secs());
                Self::new(503, Code::Unavailable, message).retry(after)
            }
        }
    }
}

/// The answer to a request that was taken, all of it or with records left out.
pub(super) fn taken(rejected: &[Rejected]) -> ExportResponse {
    if rejected.is_empty() {
        return ExportResponse::default();
    }
    let rows: u64 = rejected.iter().map(|r| r.rows).sum();
    let reasons: Vec<String> = rejected
        .iter()
        .map(|r| match r.rows {
            1 => format!("{}: {}", r.reason, r.message),
            n => format!("{} ({n} times): {}", r.reason, r.message),
        })
        .collect();
    ExportResponse {
        partial_success: Some(PartialSuccess {
            rejected: i64::try_from(rows).unwrap_or(i64::MAX),
            error_message: reasons.join("; "),
        }),
    }
}

impl ExportResponse {
    /// The body of an HTTP answer.
    pub(super) fn body(&self, signal: &Signal, format: Format) -> Vec<u8> {
        if format == Format::Protobuf {
            return self.encode_to_vec();
        }
        let Some(partial) = &self.partial_success else { return b"{}".to_vec() };
        let count = match signal {
            Signal::Logs => "rejectedLogRecords",
            Signal::Metrics => "rejectedDataPoints",
            _ => "rejectedSpans",
        };
        let mut out = format!(
            "{{\"partialSuccess\":{{\"{count}\":\"{}\",\"errorMessage\":",
            partial.rejected
        );
        json::text(&partial.error_message, &mut out);
        out.push_str("}}");
        out.into_bytes()
    }
}
