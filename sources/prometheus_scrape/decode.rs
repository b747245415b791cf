//! A scrape as rows of metrics.

use std::collections::BTreeMap;

use bytes::Bytes;
use hashbrown::HashSet;
use serde::{Deserialize, Serialize};
use weir_pipeline::component::{DecodeError, Decoded, Decoder, EntryHead};
use weir_pipeline::entity::{Entity, EntitySpace, Origin, Value};
use weir_pipeline::signal::Signal;

use crate::columns::{Cell, EntityBuilder};
use crate::inflate::inflate;
use crate::prometheus::rows::MetricRows;
use crate::prometheus::text::{self, Format, Sample, Series};
use crate::prometheus::{Kind, Rejects, check_rows, is_time, write_exemplar};
use crate::series::{BadSeries, Lookup, SeriesCache};

/// How a scrape went, and the labels of its target at that time: `outcome` of its entry, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Outcome {
    /// When it began, UTC nanoseconds.
    pub(super) start: i64,
    /// How long it took.
    pub(super) duration_ns: i64,
    /// Status of the answer, if there was one.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) status: Option<u16>,
    /// Why it failed, if it did. Then the payload is empty.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) error: Option<String>,
    /// Labels of the target.
    pub(super) labels: BTreeMap<String, String>,
}

/// See [`super`].
#[derive(Debug)]
pub(super) struct ScrapeDecoder {
    pub(super) honor_labels: bool,
    pub(super) honor_timestamps: bool,
    /// Longest body without compression.
    pub(super) body_bytes_max: usize,
    pub(super) sample_limit: Option<u32>,
    pub(super) cache: SeriesCache,
}

impl Decoder for ScrapeDecoder {
    fn decode(
        &self,
        head: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let outcome: Outcome = serde_json::from_str(&head.envelope.outcome)
            .map_err(|e| DecodeError::new("malformed", format!("outcome of a scrape: {e}")))?;
        let mut scrape = Scrape {
            decoder: self,
            outcome: &outcome,
            start: outcome.start.div_euclid(1_000_000),
            lookup: self.cache.lookup(entities.table()),
            rows: MetricRows::default(),
            rejects: Rejects::default(),
            target: &head.envelope.target,
            labels: label_bytes(&outcome.labels),
            name: Vec::new(),
        };
        let mut samples = 0;
        let mut up = outcome.error.is_none();
        if up {
            let encoding = &head.envelope.encoding;
            match inflate(encoding, payload, self.body_bytes_max) {
                Ok(body) => (up, samples) = scrape.body(&body, &head.envelope.content_type),
                Err(e) => {
                    up = false;
                    scrape
                        .rejects
                        .add(1, e.reason, || format!("target {}: {}", scrape.target, e.message));
                }
            }
        }
        let own = [
            ("up", f64::from(u8::from(up))),
            ("scrape_duration_seconds", outcome.duration_ns as f64 / 1e9),
            ("scrape_samples_scraped", samples as f64),
        ];
        for (name, value) in own {
            scrape.own(name, value)?;
        }
        let Scrape { lookup, rows, rejects, .. } = scrape;
        let batch = rows.finish(super::OUTPUT, lookup.finish())?;
        Ok(Decoded { batches: vec![batch], rejected: rejects.into_list(), idempotent: false })
    }
}

/// Labels as bytes that decide them.
fn label_bytes(labels: &BTreeMap<String, String>) -> Vec<u8> {
    let mut out = Vec::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        out.extend((text.len() as u32).to_le_bytes());
        out.extend(text.as_bytes());
    }
    // No text is that long: nothing else begins like this.
    out.extend(u32::MAX.to_le_bytes());
    out
}

struct Scrape<'a> {
    decoder: &'a ScrapeDecoder,
    outcome: &'a Outcome,
    /// Milliseconds.
    start: i64,
    lookup: Lookup<'a>,
    rows: MetricRows,
    rejects: Rejects,
    target: &'a str,
    /// Labels of the target.
    labels: Vec<u8>,
    /// Name of a series for the lookup: labels of the target, type, unit, text.
    name: Vec<u8>,
}

impl Scrape<'_> {
    /// Whether the target is up, and the number of its samples.
    fn body(&mut self, body: &[u8], content_type: &str) -> (bool, u64) {
        let format = Format::of(content_type);
        let limit = self.decoder.sample_limit.map_or(u64::MAX, u64::from);
        let target = self.target;
        let (mut samples, mut full) = (0_u64, false);
        let parsed = text::parse(body, format, |number, sample| match sample {
            Ok(sample) => {
                samples += 1;
                full |= samples > limit || check_rows(self.rows.len() + 1).is_err();
                if !full && let Err(bad) = self.sample(&sample) {
                    let message = || format!("target {target} line {number}: {}", bad.message);
                    self.rejects.add(1, bad.reason, message);
                }
            }
            Err(why) => {
                let message = || format!("target {target} line {number}: {why}");
                self.rejects.add(1, "malformed", message);
            }
        });
        if full {
            self.rows = MetricRows::default();
            let message = || format!("target {target}: {samples} samples are too many");
            self.rejects.add(samples, "sample_limit", message);
            return (false, samples);
        }
        if format == Format::OpenMetrics && !parsed.ended {
            let message = || format!("target {target}: the text does not end with `# EOF`");
            self.rejects.add(1, "truncated", message);
        }
        (self.rows.len() > 0 || (parsed.bad == 0 && samples == 0), samples)
    }

    fn sample(&mut self, sample: &Sample<'_>) -> Result<(), BadSeries> {
        let own_time = sample.time.filter(|_| self.decoder.honor_timestamps);
        let time = own_time.unwrap_or(self.start);
        if !is_time(time) {
            let message = format!("time {time} ms is outside the years 1677 to 2262");
            return Err(BadSeries::new("bad_time", message));
        }
        self.name.clear();
        self.name.extend_from_slice(&self.labels);
        self.name.push(sample.kind as u8);
        self.name.extend_from_slice(sample.unit.as_bytes());
        self.name.push(b'\n'); // in neither of the two
        self.name.extend_from_slice(sample.series.as_bytes());
        let (labels, honor) = (&self.outcome.labels, self.decoder.honor_labels);
        let key = self.lookup.key(0, &self.name, || {
            let series = text::series(sample.series)?;
            Ok(entity(&series, sample.kind, sample.unit, labels, honor))
        })?;
        self.rows.sample(key, time, sample.value);
        if let Some(int) = sample.value_int {
            self.rows.last_int(int);
        }
        if let Some(exemplar) = &sample.exemplar {
            let mut of = Series::default();
            text::labels(exemplar.labels, &mut of)
                .map_err(|why| BadSeries::new("malformed", format!("exemplar: {why}")))?;
            let mut json = String::from("[");
            let labels = of.labels.iter().map(|(n, v)| (&**n, &**v));
            write_exemplar(exemplar.value, exemplar.time, labels, &mut json);
            json.push(']');
            self.rows.last_exemplars(json);
        }
        Ok(())
    }

    /// A series of the scrape itself.
    fn own(&mut self, name: &str, value: f64) -> Result<(), DecodeError> {
        self.name.clear();
        self.name.extend_from_slice(&self.labels);
        self.name.push(b'\n');
        self.name.extend_from_slice(name.as_bytes());
        let series = Series { name: name.into(), labels: Vec::new() };
        let labels = &self.outcome.labels;
        let build = || Ok(entity(&series, Kind::Gauge, "", labels, false));
        let key = self.lookup.key(0, &self.name, build);
        let key = key.map_err(|bad| DecodeError::new(bad.reason, bad.message))?;
        self.rows.sample(key, self.start, value);
        Ok(())
    }
}

/// The entity of a scraped series.
fn entity(
    series: &Series<'_>,
    kind: Kind,
    unit: &str,
    target: &BTreeMap<String, String>,
    honor_labels: bool,
) -> Entity {
    let mut builder = EntityBuilder::new(Signal::Metrics);
    let text = |text: &str| Value::Text(text.into());
    builder.field("metric.name", text(&series.name), Origin::Metric);
    builder.field("metric.type", text(kind.as_str()), Origin::Metric);
    builder.field("metric.unit", text(unit), Origin::Metric);
    // An empty value is no label.
    let scraped: Vec<(&str, &str)> =
        series.labels.iter().map(|(n, v)| (&**n, &**v)).filter(|(_, v)| !v.is_empty()).collect();
    let has = |name: &str| scraped.iter().any(|(n, _)| *n == name);
    for (name, value) in &scraped {
        if honor_labels || !target.contains_key(*name) {
            builder.attribute(Origin::Label, name, Cell::Text(value));
            continue;
        }
        let mut exported = format!("exported_{name}");
        while has(&exported) || target.contains_key(&exported) {
            exported.insert_str(0, "exported_");
        }
        builder.attribute(Origin::Label, &exported, Cell::Text(value));
    }
    for (name, value) in target {
        if !(value.is_empty() || honor_labels && has(name)) {
            builder.attribute(Origin::Label, name, Cell::Text(value));
        }
    }
    builder.build(&HashSet::new())
}

#[cfg(test)]
mod tests;
