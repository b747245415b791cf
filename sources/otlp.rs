//! `otlp` source: takes logs, metrics and traces from OpenTelemetry SDKs and collectors.
//!
//! ```toml
//! [sources.otlp]
//! type = "otlp"
//! grpc = "127.0.0.1:4317"
//! http = "127.0.0.1:4318"
//! ```
//!
//! Outputs: `.logs`, `.metrics`, `.spans`. gRPC (`Export` of the three collector services) and
//! HTTP (`POST /v1/logs`, `/v1/metrics`, `/v1/traces`, protobuf or JSON) work at both addresses;
//! give one of them or both. Bodies may be compressed with gzip, zstd or deflate.
//!
//! Other keys: `tls` (`cert`, `key`, `client_ca`), `auth` (`bearer`, `basic`),
//! `max_request_bytes` (16 MiB, as sent), `max_decompressed_bytes` (64 MiB, at most 256 MiB),
//! `insecure` (allows an address that others can reach without `tls` and `auth`).
//!
//! A request is answered once its data is on disk. The same metrics or spans again within five
//! minutes, because that answer was lost, are answered likewise and kept once; logs, and points
//! without a time, are kept as often as they come. Records that alone are bad (an id of a wrong
//! length, a time past 2262) are left out and reported as partial success; a request that does not
//! decode is refused whole. Limits per request: a million rows, 16 MiB per record, metric or
//! resource, 256 MiB for resources with a copy for each of their scopes, 1,000 attribute columns
//! (further ones go to `attributes`), nesting of about 50 levels.
//! Descriptions and metadata of metrics are not kept.

mod decode;
mod flat;
mod grpc;
mod histogram;
mod logs;
mod metrics;
mod numbers;
mod points;
mod read;
mod read_metrics;
mod reply;
mod rows;
mod server;
mod spans;
#[cfg(test)]
mod tests;
mod text;
mod value;
mod wire;

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{
    Decoder, Listen, OutputPlan, SourceContext, SourceKind, SourcePlan,
};
use weir_pipeline::config::{ByteSize, Scope, Section, ServerAuth, Spanned, TlsServer};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::Signal;

pub(crate) use self::decode::OtlpDecoder;
pub(crate) use self::logs::severity;
use crate::http::{self, Endpoint};

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "otlp",
    about: "take logs, metrics and traces from OpenTelemetry over gRPC and HTTP",
    source: include_str!("otlp.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// Bounds of `max_request_bytes` and `max_decompressed_bytes`. A text column holds 2 GiB, and
/// values may grow about sixfold when they become JSON.
const REQUEST_BYTES: (u64, u64) = (1 << 10, 256 << 20);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Address for gRPC, such as `127.0.0.1:4317`.
    grpc: Option<Spanned<String>>,
    /// Address for HTTP, such as `127.0.0.1:4318`.
    http: Option<Spanned<String>>,
    /// Serve with TLS.
    tls: Option<TlsServer>,
    /// Who may send; empty for everyone.
    #[serde(default)]
    auth: ServerAuth,
    /// Longest request as sent. Default 16 MiB.
    max_request_bytes: Option<Spanned<ByteSize>>,
    /// Longest request without compression. Default 64 MiB.
    max_decompressed_bytes: Option<Spanned<ByteSize>>,
    /// Allow an address that others can reach without `tls` and `auth`.
    #[serde(default)]
    insecure: bool,
}

/// What was proved.
#[derive(Clone, Debug)]
struct Plan {
    grpc: Option<SocketAddr>,
    http: Option<SocketAddr>,
    tls: Option<TlsServer>,
    auth: ServerAuth,
    max_request_bytes: usize,
    decoder: Arc<OtlpDecoder>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let secure = (config.tls.is_some(), &config.auth);
    let mut listen = |key: &str, value: Option<&Spanned<String>>| {
        let value = value?;
        let checked = http::address(section, key, value).and_then(|address| {
            let at = (value, address);
            http::exposed(section, scope, key, at, secure, config.insecure).map(|()| address)
        });
        wrong.ok(checked)
    };
    let grpc = listen("grpc", config.grpc.as_ref());
    let http = listen("http", config.http.as_ref());
    if config.grpc.is_none() && config.http.is_none() {
        let message = format!("source `{}` needs `grpc` or `http`", section.id);
        let none = Diagnostic::error("W013", message).at(&section.header);
        wrong.push(none.hint("for example `http = \"127.0.0.1:4318\"`"));
    }
    let mut size = |key: &str, value: Option<&Spanned<ByteSize>>, default: usize| {
        let Some(value) = value else { return default };
        if value.value.0 < REQUEST_BYTES.0 || value.value.0 > REQUEST_BYTES.1 {
            let message = format!("`{key}` is out of range: `{}`", value.value);
            let range =
                format!("expected {} to {}", ByteSize(REQUEST_BYTES.0), ByteSize(REQUEST_BYTES.1));
            wrong.push(Diagnostic::error("W015", message).at(&section.span(value)).label(range));
        }
        value.value.as_usize()
    };
    let plan = Plan {
        grpc,
        http,
        max_request_bytes: size("max_request_bytes", config.max_request_bytes.as_ref(), 16 << 20),
        decoder: Arc::new(OtlpDecoder::new(size(
            "max_decompressed_bytes",
            config.max_decompressed_bytes.as_ref(),
            64 << 20,
        ))),
        tls: config.tls.map(|tls| http::resolve_tls(scope, tls)),
        auth: config.auth,
    };
    if wrong.has_errors() { Err(wrong) } else { Ok(Box::new(plan)) }
}

impl Plan {
    fn endpoints(&self) -> Vec<Endpoint> {
        let mut addresses: Vec<SocketAddr> = self.grpc.into_iter().chain(self.http).collect();
        addresses.dedup();
        let tls = self.tls.clone();
        addresses.into_iter().map(|address| Endpoint { address, tls: tls.clone() }).collect()
    }
}

impl SourcePlan for Plan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn outputs(&self) -> Vec<OutputPlan> {
        [("logs", Signal::Logs), ("metrics", Signal::Metrics), ("spans", Signal::Spans)]
            .map(|(name, signal)| OutputPlan { name, edge: Edge::open(signal) })
            .into()
    }

    fn listens(&self) -> Vec<Listen> {
        self.endpoints().into_iter().map(|e| Listen::Tcp(e.address)).collect()
    }

    fn decoder(&self) -> Arc<dyn Decoder> {
        self.decoder.clone()
    }

    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(http::serve(context.clone(), Arc::new(server::Otlp::new(context))))
    }
}
