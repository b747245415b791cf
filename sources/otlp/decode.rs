//! One journal entry of OTLP to rows: what it is says the path, how it is written the content type.

use std::sync::Arc;

use bytes::Bytes;
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::metrics::v1::Metric;
use opentelemetry_proto::tonic::trace::v1::Span;
use weir_pipeline::component::{DecodeError, Decoded, Decoder, EntryHead};
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::signal::Signal;

use super::wire::Request;
use super::{logs, metrics, read, read_metrics, spans};
use crate::inflate::inflate;
use crate::series::SeriesCache;

/// Decodes OTLP requests.
#[derive(Debug)]
pub(crate) struct OtlpDecoder {
    /// Most bytes of a request without its content encoding.
    pub(super) max_bytes: usize,
    series: SeriesCache,
}

impl OtlpDecoder {
    /// For requests of at most `max_bytes`, without their content encoding.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self { max_bytes, series: SeriesCache::default() }
    }
}

/// How a request is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Binary protobuf.
    Protobuf,
    /// OTLP/JSON.
    Json,
}

impl Format {
    /// The format that a media type stands for; its parameters do not matter.
    pub(super) fn of(content_type: &str) -> Option<Self> {
        let media = content_type.split(';').next().unwrap_or_default().trim();
        let is = |name: &str| media.eq_ignore_ascii_case(name);
        if is("application/json") {
            Some(Self::Json)
        } else if is("application/x-protobuf")
            || is("application/protobuf")
            || is("application/grpc")
            || is("application/grpc+proto")
        {
            Some(Self::Protobuf)
        } else {
            None
        }
    }
}

/// What a request path or gRPC method carries.
pub(super) fn signal(path: &str) -> Option<Signal> {
    Some(match path {
        "/v1/logs" | "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Signal::Logs,
        "/v1/metrics" | "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => {
            Signal::Metrics
        }
        "/v1/traces" | "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => {
            Signal::Spans
        }
        _ => return None,
    })
}

impl Decoder for OtlpDecoder {
    fn decode(
        &self,
        head: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let envelope = head.envelope;
        let signal = signal(&envelope.path).ok_or_else(|| {
            DecodeError::new("path", format!("`{}` is no OTLP path", envelope.path))
        })?;
        let format = Format::of(&envelope.content_type).ok_or_else(|| {
            DecodeError::new(
                "content_type",
                format!(
                    "content type `{}` is not OTLP, expected `application/x-protobuf` or \
                     `application/json`",
                    envelope.content_type
                ),
            )
        })?;
        let body = inflate(&envelope.encoding, payload, self.max_bytes)?;
        let table: Arc<_> = entities.table();
        let received = head.received;
        match signal {
            Signal::Logs => {
                let request: Request<'_, LogRecord> = match format {
                    Format::Protobuf => Request::parse(&signal, &body)?,
                    Format::Json => {
                        read::request(&signal, &body, "Logs", "logRecords", read::log_record)?
                    }
                };
                logs::decode(request, received, &table)
            }
            Signal::Metrics => {
                let request: Request<'_, Metric> = match format {
                    Format::Protobuf => Request::parse(&signal, &body)?,
                    Format::Json => {
                        read::request(&signal, &body, "Metrics", "metrics", read_metrics::metric)?
                    }
                };
                metrics::decode(request, received, self.series.lookup(table))
            }
            _ => {
                let request: Request<'_, Span> = match format {
                    Format::Protobuf => Request::parse(&signal, &body)?,
                    Format::Json => read::request(&signal, &body, "Spans", "spans", read::span)?,
                };
                spans::decode(request, received, &table)
            }
        }
    }
}
