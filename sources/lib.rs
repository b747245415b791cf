//! Sources: one module per type. This file is the table of them and nothing else.

mod columns;
mod http;
mod inflate;
mod json;
mod otlp;

use weir_pipeline::component::SourceKind;

/// Every source type.
pub const ALL: &[SourceKind] = &[otlp::KIND];
