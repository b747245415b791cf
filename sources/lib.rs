//! Sources, and where lookup tables are read from: one module per type. This file is the tables of
//! them and nothing else.

mod columns;
mod fluvio;
mod http;
mod inflate;
mod json;
mod kafka;
mod lookups;
mod nats;
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

use weir_pipeline::component::{LookupKind, SourceKind};

/// Every source type.
pub const ALL: &[SourceKind] = &[
    fluvio::KIND,
    kafka::KIND,
    nats::KIND,
    otlp::KIND,
    prometheus_remote_write::KIND,
    prometheus_scrape::KIND,
    syslog::KIND,
];

/// Every type of lookup table.
pub const LOOKUPS: &[LookupKind] = &[
    lookups::file::KIND,
    lookups::http_json::KIND,
    lookups::mysql::KIND,
    lookups::postgres::KIND,
    lookups::sql::KIND,
];
