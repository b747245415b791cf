//! Sources: one module per type. This file is the table of them and nothing else.

mod columns;
mod fluvio;
mod http;
mod inflate;
mod json;
mod otlp;
mod prometheus;
mod prometheus_remote_write;
mod prometheus_scrape;
mod protobuf;
mod replayable;
mod series;
mod syslog;
#[cfg(test)]
mod testing;

use weir_pipeline::component::SourceKind;

/// Every source type.
pub const ALL: &[SourceKind] = &[
    fluvio::KIND,
    otlp::KIND,
    prometheus_remote_write::KIND,
    prometheus_scrape::KIND,
    syslog::KIND,
];
