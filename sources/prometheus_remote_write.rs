//! `prometheus_remote_write` source: takes what Prometheus and its kin send with `remote_write`.
//!
//! ```toml
//! [sources.prometheus]
//! type = "prometheus_remote_write"
//! listen = "127.0.0.1:9090"
//! ```
//!
//! Output: `metrics`. Remote write 1.0 at `POST /api/v1/write`: snappy (block format), protobuf
//! `prometheus.WriteRequest`. A sender of 2.0 is answered 415 and falls back to 1.0.
//!
//! Labels keep their names; `__name__` is `metric.name`. The type is `counter` for names that end
//! in `_total`, and in `_bucket` with a label `le`; else `unknown`. Stale markers become `stale`.
//! Native histograms become the column `histogram` (`exponential_histogram`; those with custom
//! buckets `histogram` and `metric.bounds`); fractional counts, which only recording rules make,
//! are left out and counted. Exemplars go to the last sample sent with them; without a sample
//! they are counted, not kept. Metadata (type, unit and help of families) is not kept.
//!
//! Other keys: `tls` (`cert`, `key`, `client_ca`), `auth` (`bearer`, `basic`),
//! `max_request_bytes` (16 MiB, as sent), `max_decompressed_bytes` (64 MiB, at most 256 MiB),
//! `insecure` (allows an address that others can reach without `tls` and `auth`).
//!
//! A request is answered 204 once its data is on disk. The same request again within five minutes,
//! because that answer was lost, is answered likewise and kept once.
//! Series that alone are bad (no name, a label twice, no UTF-8) are left out: the rest is kept, and
//! the answer is 400 with the reason, which senders log and do not repeat. 429 and 503 carry
//! `Retry-After`.

mod decode;
mod histogram;
mod server;
#[cfg(test)]
mod tests;

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

use crate::http::{self, Endpoint};
use crate::series::SeriesCache;
use decode::RemoteWriteDecoder;

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "prometheus_remote_write",
    about: "take metrics that Prometheus sends with remote write",
    source: include_str!("prometheus_remote_write.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// The one output.
const OUTPUT: &str = "metrics";

/// Bounds of `max_request_bytes` and `max_decompressed_bytes`, as of `otlp`.
const REQUEST_BYTES: (u64, u64) = (1 << 10, 256 << 20);

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Address to listen on, such as `127.0.0.1:9090`.
    listen: Spanned<String>,
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
#[derive(Debug)]
struct RemoteWritePlan {
    listen: SocketAddr,
    tls: Option<TlsServer>,
    auth: ServerAuth,
    max_request_bytes: usize,
    decoder: Arc<RemoteWriteDecoder>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let secure = (config.tls.is_some(), &config.auth);
    let listen = http::address(section, "listen", &config.listen).and_then(|address| {
        let at = (&config.listen, address);
        http::exposed(section, scope, "listen", at, secure, config.insecure).map(|()| address)
    });
    let listen = wrong.ok(listen);
    let mut size = |key: &str, value: Option<&Spanned<ByteSize>>, default: usize| {
        let Some(value) = value else { return default };
        let (min, max) = REQUEST_BYTES;
        if !(min..=max).contains(&value.value.0) {
            let message = format!("`{key}` is out of range: `{}`", value.value);
            let range = format!("expected {} to {}", ByteSize(min), ByteSize(max));
            wrong.push(Diagnostic::error("W015", message).at(&section.span(value)).label(range));
        }
        value.value.as_usize()
    };
    let max_request_bytes = size("max_request_bytes", config.max_request_bytes.as_ref(), 16 << 20);
    let bytes_max =
        size("max_decompressed_bytes", config.max_decompressed_bytes.as_ref(), 64 << 20);
    match listen {
        Some(listen) if !wrong.has_errors() => Ok(Box::new(RemoteWritePlan {
            listen,
            tls: config.tls.map(|tls| http::resolve_tls(scope, tls)),
            auth: config.auth,
            max_request_bytes,
            decoder: Arc::new(RemoteWriteDecoder { bytes_max, cache: SeriesCache::default() }),
        })),
        _ => Err(wrong),
    }
}

impl SourcePlan for RemoteWritePlan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: OUTPUT, edge: Edge::open(Signal::Metrics) }]
    }

    fn listens(&self) -> Vec<Listen> {
        vec![Listen::Tcp(self.listen)]
    }

    fn decoder(&self) -> Arc<dyn Decoder> {
        self.decoder.clone()
    }

    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(http::serve(context.clone(), Arc::new(server::RemoteWrite::new(context))))
    }
}

impl RemoteWritePlan {
    fn endpoint(&self) -> Endpoint {
        Endpoint { address: self.listen, tls: self.tls.clone() }
    }
}
