//! The table of sink types.

mod clickhouse;
mod console;
mod http;
mod lines;
mod store;

use weir_pipeline::component::SinkKind;

/// Every sink type, by name.
pub const ALL: &[SinkKind] = &[clickhouse::KIND, console::KIND, http::KIND, store::KIND];
