//! `prometheus_scrape` source: asks targets for their metrics, as Prometheus does.
//!
//! ```toml
//! [sources.node]
//! type = "prometheus_scrape"
//! targets = ["127.0.0.1:9100"]
//! interval = "15s"
//! ```
//!
//! Output: `metrics`. Understands the text format 0.0.4 and OpenMetrics 1.0, quoted names too.
//! Labels keep their names; classic histograms and summaries stay the series that they are
//! (`_bucket`, `_sum`, `_count`), each of which is a `counter` or `gauge`. Help texts are not kept.
//!
//! Each scrape is one journal entry, also one that failed, and adds the series `up`,
//! `scrape_duration_seconds` and `scrape_samples_scraped`. Samples without a time of their own have
//! that of the start of the scrape. A line that is wrong is left out and counted; `up` is 0 where
//! nothing could be used or `sample_limit` was passed.
//!
//! `target_files` are lists as of Prometheus' `file_sd_configs`, in JSON:
//! `[{"targets": ["10.0.0.1:9100"], "labels": {"rack": "a"}}]`. They are looked at every 5 s; a
//! broken or missing one keeps its last targets. Of labels that start with `__` only
//! `__scheme__` and `__metrics_path__` count.
//!
//! | key | default | |
//! |---|---|---|
//! | `targets`, `target_files` | | `host:port` or URLs; at least one of the two |
//! | `interval`, `timeout` | `15s`, `10s` | each target has its own place within the interval |
//! | `scheme`, `path` | `http`, `/metrics` | for targets that do not say |
//! | `job`, `labels` | the id of the source | added to every series, with `instance` |
//! | `honor_labels` | `false` | a label of the target wins; else it becomes `exported_<label>` |
//! | `honor_timestamps` | `true` | times in the text count |
//! | `tls`, `auth` | | of the client; secrets are read at each scrape |
//! | `max_body_bytes`, `sample_limit` | `64MiB`, none | past them a scrape has failed |
//!
//! Delivery: a scrape that the journal cannot take is left out and counted.

mod client;
mod decode;
mod run;
mod target;
#[cfg(test)]
mod tests;

use std::any::Any;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::Deserialize;
use weir_pipeline::component::{
    Decoder, Listen, OutputPlan, SourceContext, SourceKind, SourcePlan,
};
use weir_pipeline::config::{ByteSize, ClientAuth, Duration, Scope, Section, Spanned, TlsClient};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::Signal;

use crate::series::SeriesCache;
use decode::ScrapeDecoder;
use target::{Defaults, Target};

/// The row of the table.
pub(crate) const KIND: SourceKind = SourceKind {
    name: "prometheus_scrape",
    about: "ask targets for their metrics, as Prometheus does",
    source: include_str!("prometheus_scrape.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

/// The one output.
const OUTPUT: &str = "metrics";

/// Shortest interval: below it, scraping is what loads the target.
const INTERVAL_MIN: std::time::Duration = std::time::Duration::from_millis(100);
/// Bounds of `max_body_bytes`.
const BODY_BYTES: (u64, u64) = (1 << 10, 1 << 30);

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// What to scrape: `host:port` or URLs.
    #[serde(default)]
    targets: Vec<Spanned<String>>,
    /// JSON files with targets, read again when they change.
    #[serde(default)]
    target_files: Vec<PathBuf>,
    /// Time from one scrape to the next. Default 15 s.
    interval: Option<Spanned<Duration>>,
    /// Longest time that a scrape may take. Default 10 s, or the interval if that is shorter.
    timeout: Option<Spanned<Duration>>,
    /// For targets that are not URLs. Default `http`.
    scheme: Option<Scheme>,
    /// For targets that do not name one. Default `/metrics`.
    path: Option<Spanned<String>>,
    /// The label `job`. Default: the id of the source.
    job: Option<String>,
    /// Further labels of every series.
    #[serde(default)]
    labels: BTreeMap<String, String>,
    /// Keep a scraped label that has the name of one of ours.
    #[serde(default)]
    honor_labels: bool,
    /// Use the times that targets give. Default true.
    honor_timestamps: Option<bool>,
    /// TLS to the targets.
    tls: Option<TlsClient>,
    /// Credentials for the targets.
    #[serde(default)]
    auth: ClientAuth,
    /// Longest body without compression. Default 64 MiB.
    max_body_bytes: Option<Spanned<ByteSize>>,
    /// Most samples of one scrape.
    sample_limit: Option<u32>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Scheme {
    #[default]
    Http,
    Https,
}

impl Scheme {
    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// What was proved.
#[derive(Debug)]
struct ScrapePlan {
    targets: Vec<Target>,
    target_files: Vec<PathBuf>,
    /// For the targets of files.
    defaults: Defaults,
    interval: std::time::Duration,
    timeout: std::time::Duration,
    tls: Option<TlsClient>,
    auth: ClientAuth,
    body_bytes_max: usize,
    decoder: Arc<ScrapeDecoder>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn SourcePlan>, Diagnostics> {
    let config: Config = section.read()?;
    let mut wrong = Diagnostics::default();
    let mut error = |message: String, span: weir_pipeline::diagnostic::Span| {
        wrong.push(Diagnostic::error("W015", message).at(&span));
    };
    let interval = config.interval.as_ref().map_or(std::time::Duration::from_secs(15), |i| {
        if i.value.0 < INTERVAL_MIN {
            error("`interval` is shorter than 100ms".to_owned(), section.span(i));
        }
        i.value.0
    });
    let timeout = match &config.timeout {
        None => interval.min(std::time::Duration::from_secs(10)),
        Some(timeout) => {
            if timeout.value.0 > interval || timeout.value.0.is_zero() {
                let message = "`timeout` has to be above 0 and at most `interval`".to_owned();
                error(message, section.span(timeout));
            }
            timeout.value.0
        }
    };
    if let Some(path) = config.path.as_ref().filter(|p| !p.value.starts_with('/')) {
        error(format!("`path` does not start with `/`: `{}`", path.value), section.span(path));
    }
    if let Some(name) = config.labels.keys().find(|n| n.is_empty() || n.starts_with("__")) {
        error(format!("`labels` has a name that is not a label: `{name}`"), section.header.clone());
    }
    let mut labels = config.labels;
    labels.entry("job".to_owned()).or_insert(config.job.unwrap_or_else(|| section.id.clone()));
    let defaults = Defaults {
        scheme: config.scheme.unwrap_or_default().as_str().to_owned(),
        path: config.path.map_or("/metrics".to_owned(), |p| p.value),
        labels,
    };
    let mut targets = Vec::new();
    for text in &config.targets {
        match defaults.target(&text.value) {
            Ok(target) => targets.push(target),
            Err(why) => error(why, section.span(text)),
        }
    }
    if config.targets.is_empty() && config.target_files.is_empty() {
        error(
            format!("source `{}` needs `targets` or `target_files`", section.id),
            section.header.clone(),
        );
    }
    let auth = &config.auth;
    if auth.bearer.is_some() && auth.basic.is_some() {
        let message = "`auth` has both `bearer` and `basic`, expected one of them".to_owned();
        error(message, section.header.clone());
    }
    for name in auth.headers.keys() {
        if http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            error(format!("`auth.headers` has a bad name: `{name}`"), section.header.clone());
        }
    }
    let body_bytes_max = config.max_body_bytes.as_ref().map_or(64 << 20, |m| {
        let (min, max) = BODY_BYTES;
        if !(min..=max).contains(&m.value.0) {
            let (min, max) = (ByteSize(min), ByteSize(max));
            error(format!("`max_body_bytes` is not {min} to {max}"), section.span(m));
        }
        m.value.as_usize()
    });
    if wrong.has_errors() {
        return Err(wrong);
    }
    let decoder = ScrapeDecoder {
        honor_labels: config.honor_labels,
        honor_timestamps: config.honor_timestamps.unwrap_or(true),
        body_bytes_max,
        sample_limit: config.sample_limit,
        cache: SeriesCache::default(),
    };
    let resolve = |path: &PathBuf| scope.base.join(path);
    Ok(Box::new(ScrapePlan {
        targets,
        target_files: config.target_files.iter().map(resolve).collect(),
        defaults,
        interval,
        timeout,
        tls: config.tls.map(|tls| tls.resolved(&scope.base)),
        auth: config.auth,
        body_bytes_max,
        decoder: Arc::new(decoder),
    }))
}

impl SourcePlan for ScrapePlan {
    fn as_any(&self) -> &dyn Any {
        self
    }

    fn outputs(&self) -> Vec<OutputPlan> {
        vec![OutputPlan { name: OUTPUT, edge: Edge::open(Signal::Metrics) }]
    }

    fn listens(&self) -> Vec<Listen> {
        Vec::new()
    }

    fn decoder(&self) -> Arc<dyn Decoder> {
        self.decoder.clone()
    }

    fn run(&self, context: SourceContext) -> BoxFuture<'static, ()> {
        Box::pin(run::run(context))
    }
}
