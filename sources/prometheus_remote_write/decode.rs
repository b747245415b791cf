//! `WriteRequest` as rows of metrics.
//!
//! Messages: <https://prometheus.io/docs/specs/prw/remote_write_spec/>. The request is walked in
//! place; a series whose labels are known costs a hash of their bytes.

use std::cell::RefCell;

use bytes::Bytes;
use hashbrown::HashSet;
use weir_pipeline::component::{DecodeError, Decoded, Decoder, EntryHead};
use weir_pipeline::entity::{Entity, EntitySpace, Origin, Value as Attribute};
use weir_pipeline::signal::Signal;

use super::histogram::Native;
use crate::columns::{Cell, EntityBuilder};
use crate::json;
use crate::prometheus::rows::MetricRows;
use crate::prometheus::{Kind, Rejects, STALE_NAN, check_rows, is_time, write_exemplar};
use crate::protobuf::{self, Fields, Malformed};
use crate::series::{BadSeries, Lookup, SeriesCache};

/// Bytes of a series with one sample, about.
const SERIES_BYTES: usize = 200;

/// Tag of a sample in a `TimeSeries`.
const SAMPLE: u8 = 2 << 3 | 2;

/// Reason of exemplars that came without a sample: not a mistake of the sender.
pub(super) const EXEMPLAR: &str = "exemplar_without_sample";

/// See [`super`].
#[derive(Debug)]
pub(super) struct RemoteWriteDecoder {
    /// Longest request without compression.
    pub(super) bytes_max: usize,
    pub(super) cache: SeriesCache,
}

impl Decoder for RemoteWriteDecoder {
    fn decode(
        &self,
        _: &EntryHead<'_>,
        payload: &Bytes,
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        UNCOMPRESSED.with_borrow_mut(|buffer| {
            let request = decompress(payload, self.bytes_max, buffer)?;
            let decoded = self.decode_request(request, entities);
            buffer.truncate(KEPT_BYTES_MAX);
            buffer.shrink_to(KEPT_BYTES_MAX);
            decoded
        })
    }
}

impl RemoteWriteDecoder {
    fn decode_request(
        &self,
        request: &[u8],
        entities: &EntitySpace,
    ) -> Result<Decoded, DecodeError> {
        let mut requested = Request {
            lookup: self.cache.lookup(entities.table()),
            rows: MetricRows::with_capacity(request.len() / SERIES_BYTES),
            rejects: Rejects::default(),
            name: Vec::new(),
        };
        let walked = requested.walk(request);
        // Also after a failure: entities that were made are known.
        let table = requested.lookup.finish();
        walked?;
        let batch = requested.rows.finish(super::OUTPUT, table)?;
        // Each sample has its own time.
        let rejected = requested.rejects.into_list();
        Ok(Decoded { batches: vec![batch], rejected, idempotent: true })
    }
}

thread_local! {
    /// What the last request of this thread was uncompressed to: the next one needs no new memory.
    static UNCOMPRESSED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// Of that memory at most so much is kept.
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Snappy block format, with a limit that is checked before anything is allocated.
fn decompress<'a>(
    payload: &[u8],
    limit: usize,
    buffer: &'a mut Vec<u8>,
) -> Result<&'a [u8], DecodeError> {
    let malformed =
        |e: snap::Error| DecodeError::new("malformed", format!("the body is not snappy: {e}"));
    let length = snap::raw::decompress_len(payload).map_err(malformed)?;
    if length > limit {
        let message = format!("the body is larger than {limit} bytes uncompressed");
        return Err(DecodeError::new("too_large", message));
    }
    if buffer.len() < length {
        buffer.resize(length, 0);
    }
    let length = snap::raw::Decoder::new().decompress(payload, buffer).map_err(malformed)?;
    Ok(&buffer[..length])
}

impl From<Malformed> for DecodeError {
    fn from(_: Malformed) -> Self {
        Self::new("malformed", "the body is not a protobuf `prometheus.WriteRequest`")
    }
}

/// Why a series came to nothing.
enum Bad {
    Request(DecodeError),
    Series(BadSeries),
}

impl From<Malformed> for Bad {
    fn from(e: Malformed) -> Self {
        Self::Request(e.into())
    }
}

impl From<BadSeries> for Bad {
    fn from(e: BadSeries) -> Self {
        Self::Series(e)
    }
}

struct Request<'a> {
    lookup: Lookup<'a>,
    rows: MetricRows,
    rejects: Rejects,
    /// Name of a series for the lookup, where it does not stand in one piece.
    name: Vec<u8>,
}

/// A `TimeSeries`, its fields still unread.
#[derive(Default)]
struct TimeSeries<'a> {
    samples: Vec<&'a [u8]>,
    exemplars: Vec<&'a [u8]>,
    histograms: Vec<&'a [u8]>,
}

impl Request<'_> {
    fn walk(&mut self, request: &[u8]) -> Result<(), DecodeError> {
        let mut series = TimeSeries::default();
        for field in Fields(request) {
            let field = field?;
            // 3 is metadata: the type there is that of a family, which this sender says of no
            // series. Anything else is not known.
            if field.number == 1 {
                self.series(field.value.bytes()?, &mut series)?;
            }
        }
        Ok(())
    }

    fn series<'a>(
        &mut self,
        message: &'a [u8],
        parts: &mut TimeSeries<'a>,
    ) -> Result<(), DecodeError> {
        // Mostly series come in the order as before, each with one sample and nothing else.
        if let Some((key, length)) = self.lookup.next(Kind::Unknown as u8, message)
            && let Some((&[SAMPLE, length @ ..0x80], sample)) =
                message[length..].split_first_chunk()
            && sample.len() == usize::from(length)
        {
            check_rows(self.rows.len() + 1)?;
            return self.sample(key, sample);
        }
        // Every sender writes the labels first.
        let (mut labels, rest) = protobuf::leading(message, 1);
        parts.samples.clear();
        parts.exemplars.clear();
        parts.histograms.clear();
        let mut more_labels = false;
        for field in Fields(rest) {
            let field = field?;
            match field.number {
                1 => {
                    field.value.bytes()?;
                    more_labels = true;
                }
                2 => parts.samples.push(field.value.bytes()?),
                3 => parts.exemplars.push(field.value.bytes()?),
                4 => parts.histograms.push(field.value.bytes()?),
                _ => {}
            }
        }
        let mut gathered = Vec::new();
        if more_labels {
            gathered.extend_from_slice(labels);
            for field in Fields(rest) {
                let field = field?;
                if field.number == 1 {
                    gathered.extend_from_slice(field.raw);
                }
            }
            labels = &gathered;
        }
        check_rows(self.rows.len() + parts.samples.len() + parts.histograms.len())?;
        let rows = self.rows.len();
        self.samples(labels, &parts.samples)?;
        self.histograms(labels, &parts.histograms)?;
        self.exemplars(&parts.exemplars, self.rows.len() > rows)
    }

    /// The key of the series with these labels, which is a `kind` unless its name says more.
    fn key(&mut self, labels: &[u8], kind: Kind, bounds: &[f64]) -> Result<u32, BadSeries> {
        if bounds.is_empty() {
            return self.lookup.key(kind as u8, labels, || entity(labels, kind, bounds));
        }
        self.name.clear();
        self.name.extend_from_slice(labels);
        for bound in bounds {
            self.name.extend(bound.to_bits().to_le_bytes());
        }
        self.lookup.key(kind as u8, &self.name, || entity(labels, kind, bounds))
    }

    fn samples(&mut self, labels: &[u8], samples: &[&[u8]]) -> Result<(), DecodeError> {
        if samples.is_empty() {
            return Ok(());
        }
        let key = match self.key(labels, Kind::Unknown, &[]) {
            Ok(key) => Some(key),
            Err(bad) => {
                self.rejects.add(samples.len() as u64, bad.reason, || bad.message);
                None
            }
        };
        match key {
            Some(key) => samples.iter().try_for_each(|sample| self.sample(key, sample)),
            // They have to make sense all the same.
            None => samples.iter().try_for_each(|sample| Ok(read_sample(sample).map(|_| ())?)),
        }
    }

    fn sample(&mut self, key: u32, sample: &[u8]) -> Result<(), DecodeError> {
        let (value, time) = read_sample(sample)?;
        if is_time(time) {
            self.rows.sample(key, time, value);
        } else {
            self.rejects.add(1, "bad_time", || bad_time(time));
        }
        Ok(())
    }

    fn histograms(&mut self, labels: &[u8], histograms: &[&[u8]]) -> Result<(), DecodeError> {
        for message in histograms {
            let native = Native::read(message)?;
            match self.histogram(labels, &native) {
                Ok(()) => {}
                Err(Bad::Series(bad)) => self.rejects.add(1, bad.reason, || bad.message),
                Err(Bad::Request(e)) => return Err(e),
            }
        }
        Ok(())
    }

    fn histogram(&mut self, labels: &[u8], native: &Native) -> Result<(), Bad> {
        if !is_time(native.time) {
            return Err(BadSeries::new("bad_time", bad_time(native.time)).into());
        }
        let kind = match (native.is_custom(), native.gauge) {
            (false, false) => Kind::Exponential,
            (false, true) => Kind::GaugeExponential,
            (true, false) => Kind::Histogram,
            (true, true) => Kind::GaugeHistogram,
        };
        let bounds = if native.is_custom() { native.bounds.as_slice() } else { &[] };
        if native.sum.to_bits() == STALE_NAN {
            let key = self.key(labels, kind, bounds)?;
            self.rows.stale(key, native.time);
            return Ok(());
        }
        let histogram = native.to_histogram()?;
        let key = self.key(labels, kind, bounds)?;
        self.rows.histogram(key, native.time, histogram);
        Ok(())
    }

    /// Exemplars belong to the last row of their series.
    fn exemplars(&mut self, exemplars: &[&[u8]], has_rows: bool) -> Result<(), DecodeError> {
        if exemplars.is_empty() {
            return Ok(());
        }
        let mut list = String::from("[");
        for message in exemplars {
            if list.len() > 1 {
                list.push(',');
            }
            if let Err(bad) = exemplar(message, &mut list)? {
                self.rejects.add(exemplars.len() as u64, bad.reason, || bad.message);
                return Ok(());
            }
        }
        list.push(']');
        if has_rows {
            self.rows.last_exemplars(list);
        } else {
            let message = || "exemplars of a series without samples are not kept".to_owned();
            self.rejects.add(exemplars.len() as u64, EXEMPLAR, message);
        }
        Ok(())
    }
}

/// Value and time, milliseconds, of a `Sample`.
fn read_sample(message: &[u8]) -> Result<(f64, i64), Malformed> {
    // As every sender writes it.
    if let Some((&[0x09, a, b, c, d, e, f, g, h, 0x10], mut time)) = message.split_first_chunk()
        && let Some(time) = protobuf::varint(&mut time).filter(|_| time.is_empty())
    {
        return Ok((f64::from_le_bytes([a, b, c, d, e, f, g, h]), time as i64));
    }
    let (mut value, mut time) = (0.0, 0);
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => value = field.value.double()?,
            2 => time = field.value.varint()? as i64,
            _ => {}
        }
    }
    Ok((value, time))
}

fn bad_time(time: i64) -> String {
    format!("time {time} ms is outside the years 1677 to 2262")
}

/// Writes an exemplar as JSON.
fn exemplar(message: &[u8], out: &mut String) -> Result<Result<(), BadSeries>, Malformed> {
    let (mut value, mut time) = (0.0, 0);
    let mut labels = Vec::new();
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => match label(field.value.bytes()?)? {
                Ok(label) => labels.push(label),
                Err(bad) => return Ok(Err(bad)),
            },
            2 => value = field.value.double()?,
            3 => time = field.value.varint()? as i64,
            _ => {}
        }
    }
    write_exemplar(value, Some(time), labels.iter().copied(), out);
    Ok(Ok(()))
}

/// Name and value of a `Label`.
fn label(message: &[u8]) -> Result<Result<(&str, &str), BadSeries>, Malformed> {
    let (mut name, mut value): (&[u8], &[u8]) = (b"", b"");
    for field in Fields(message) {
        let field = field?;
        match field.number {
            1 => name = field.value.bytes()?,
            2 => value = field.value.bytes()?,
            _ => {}
        }
    }
    let text = |bytes| {
        std::str::from_utf8(bytes).map_err(|_| {
            let text = String::from_utf8_lossy(bytes);
            let sample = crate::prometheus::text::sample(&text);
            BadSeries::new("bad_utf8", format!("label is not UTF-8: {sample}"))
        })
    };
    Ok(text(name).and_then(|name| Ok((name, text(value)?))))
}

/// The entity of a series with these labels, as they stand.
fn entity(raw: &[u8], kind: Kind, bounds: &[f64]) -> Result<Entity, BadSeries> {
    let malformed = |_| BadSeries::new("malformed", "a label is not a protobuf message");
    let mut labels = Vec::new();
    for field in Fields(raw) {
        let message = field.and_then(|f| f.value.bytes()).map_err(malformed)?;
        labels.push(label(message).map_err(malformed)??);
    }
    let mut name = "";
    let mut builder = EntityBuilder::new(Signal::Metrics);
    for (label, value) in &labels {
        match *label {
            "" => return Err(BadSeries::new("bad_label", "a label has no name")),
            "__name__" => name = value,
            // An empty value is no label.
            _ if value.is_empty() => {}
            label => builder.attribute(Origin::Label, label, Cell::Text(value)),
        }
    }
    let described = || crate::prometheus::text::sample(name);
    if name.is_empty() {
        return Err(BadSeries::new("no_name", "a series has no label `__name__`"));
    }
    // The specification wants them sorted, but not every sender does so; the order says nothing.
    labels.sort_unstable();
    if let Some(twice) = labels.windows(2).find(|w| w[0].0 == w[1].0) {
        let message = format!("label `{}` comes twice in {}", twice[0].0, described());
        return Err(BadSeries::new("duplicate_label", message));
    }
    let bucket = || name.ends_with("_bucket") && labels.iter().any(|(name, _)| *name == "le");
    let kind = match kind {
        Kind::Unknown if name.ends_with("_total") || bucket() => Kind::Counter,
        kind => kind,
    };
    let text = |text: &str| Attribute::Text(text.into());
    builder.field("metric.name", text(name), Origin::Metric);
    builder.field("metric.type", text(kind.as_str()), Origin::Metric);
    if matches!(kind, Kind::Exponential | Kind::Histogram) {
        builder.field("metric.temporality", text("cumulative"), Origin::Metric);
    }
    if matches!(kind, Kind::Histogram | Kind::GaugeHistogram) {
        let mut list = String::from("[");
        for bound in bounds {
            if list.len() > 1 {
                list.push(',');
            }
            json::double(*bound, &mut list);
        }
        list.push(']');
        builder.field("metric.bounds", Attribute::Json(list.into()), Origin::Metric);
    }
    Ok(builder.build(&HashSet::new()))
}

#[cfg(test)]
mod tests;
