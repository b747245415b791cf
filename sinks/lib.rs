//! The table of sink types.

mod clickhouse;
mod console;
mod fluvio;
mod http;
mod kafka;
mod lines;
mod messages;
mod nats;
mod store;

use weir_pipeline::component::SinkKind;

/// Every sink type, by name.
pub const ALL: &[SinkKind] = &[
    clickhouse::KIND,
    console::KIND,
    fluvio::KIND,
    http::KIND,
    kafka::KIND,
    nats::KIND,
    store::KIND,
];
