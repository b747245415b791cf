//! `otlp` source

mod decode;
mod histogram;
mod logs;
mod metrics;
mod read;
mod read_metrics;
mod rows;
mod spans;
mod text;
mod value;
mod wire;
