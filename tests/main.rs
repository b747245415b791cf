//! End-to-end tests: the real binary, real clients, no mock in between.
//!
//! `make test` installs what the clients need (rsyslog, Prometheus, node_exporter, NATS,
//! the OpenTelemetry SDK for Python). A test whose client is missing fails and says so.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::type_complexity, clippy::cmp_owned)]

mod alerting;
mod anomaly;
mod bad_config;
mod bad_input;
mod clients;
mod determinism;
mod durability;
mod forecast;
mod harness;
mod load;
mod lookups;
mod plan;
mod queues;
mod replay;
mod stores;
