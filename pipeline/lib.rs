//! The engine of Weir: batches, configuration, journal, dataflow, checkpoints, reload.
//!
//! It knows no concrete source, operator, sink, table or notifier: those are handed to it as a
//! [`component::Components`] table by the program.

pub mod admission;
pub mod backlog;
pub mod batch;
pub mod checkpoint;
pub mod component;
pub mod config;
pub mod diagnostic;
pub mod edge;
pub mod entity;
pub mod expression;
pub mod failpoint;
pub mod fluvio_client;
pub mod graph;
pub mod http_client;
pub mod intake;
mod joining;
pub mod journal;
pub mod kafka_client;
pub mod listen;
pub mod lookup;
pub mod memory;
pub mod nats_client;
pub mod plan;
pub mod replay;
pub mod runtime;
pub mod share;
pub mod signal;
pub mod tap;
pub mod telemetry;
pub mod testing;
pub mod tls;
