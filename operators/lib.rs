//! The table of operator types.

mod anomaly;
mod anomaly_multivariate;
mod changepoint;
mod cluster;
mod codec;
mod columns;
mod enrich;
mod entities;
mod filter;
mod forecast;
mod inputs;
mod log_pattern;
mod log_to_metric;
mod metered;
mod outlier;
mod rollup;
mod series;
mod service_graph;
mod span_metrics;
mod staleness;
mod tail_sample;
#[cfg(test)]
mod testing;
mod vrl;
mod window;

use weir_pipeline::component::OperatorKind;

/// Every operator type, by name.
pub const ALL: &[OperatorKind] = &[
    anomaly::KIND,
    anomaly_multivariate::KIND,
    changepoint::KIND,
    cluster::KIND,
    enrich::KIND,
    filter::KIND,
    forecast::KIND,
    log_pattern::KIND,
    log_to_metric::KIND,
    outlier::KIND,
    rollup::KIND,
    service_graph::KIND,
    span_metrics::KIND,
    staleness::KIND,
    tail_sample::KIND,
    vrl::KIND,
    window::KIND,
];
