//! Native histograms: exponential ones in the indexes of OpenTelemetry, and ones with buckets of
//! their own.
//!
//! Prometheus' bucket `i` ends where OpenTelemetry's bucket `i` begins, so offsets are one less.
//! Spans become one dense list. Schemas: <https://prometheus.io/docs/specs/native_histograms/>.

use crate::prometheus::rows::{Exponential, Histogram};
use crate::protobuf::{Fields, Malformed, Value, zigzag};
use crate::series::BadSeries;

/// Buckets of one side of one histogram: clients limit themselves to some hundred.
const BUCKETS_MAX: usize = 16_384;
/// The schema whose buckets are `custom_values`.
const CUSTOM: i64 = -53;
/// Schemas that are a scale.
const EXPONENTIAL: std::ops::RangeInclusive<i64> = -4..=8;
/// `ResetHint.GAUGE`: it goes up and down.
const GAUGE: u64 = 3;

/// A histogram as it came.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Native {
    /// Milliseconds since 1970.
    pub(super) time: i64,
    pub(super) sum: f64,
    /// Upper bounds of the buckets of schema -53.
    pub(super) bounds: Vec<f64>,
    pub(super) gauge: bool,
    schema: i64,
    count: Count,
    zero_count: Count,
    zero_threshold: f64,
    positive: Side,
    negative: Side,
}

/// An integer, or a double as recording rules make it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Count {
    Int(u64),
    Float(f64),
}

impl Default for Count {
    fn default() -> Self {
        Self::Int(0)
    }
}

#[derive(Clone, Debug, Default, PartialEq)]
struct Side {
    /// Distance from the bucket before, number of buckets.
    spans: Vec<(i64, u64)>,
    deltas: Vec<u64>,
    counts: Vec<f64>,
}

impl Native {
    /// Reads a `Histogram` message.
    pub(super) fn read(message: &[u8]) -> Result<Self, Malformed> {
        let mut h = Self::default();
        for field in Fields(message) {
            let field = field?;
            let value = field.value;
            match field.number {
                1 => h.count = Count::Int(value.varint()?),
                2 => h.count = Count::Float(value.double()?),
                3 => h.sum = value.double()?,
                4 => h.schema = zigzag(value.varint()?),
                5 => h.zero_threshold = value.double()?,
                6 => h.zero_count = Count::Int(value.varint()?),
                7 => h.zero_count = Count::Float(value.double()?),
                8 => h.negative.spans.push(span(value)?),
                9 => value.varints(&mut h.negative.deltas)?,
                10 => value.doubles(&mut h.negative.counts)?,
                11 => h.positive.spans.push(span(value)?),
                12 => value.varints(&mut h.positive.deltas)?,
                13 => value.doubles(&mut h.positive.counts)?,
                14 => h.gauge = value.varint()? == GAUGE,
                15 => h.time = value.varint()? as i64,
                16 => value.doubles(&mut h.bounds)?,
                _ => {}
            }
        }
        Ok(h)
    }

    /// Whether its buckets are [`Native::bounds`].
    pub(super) fn is_custom(&self) -> bool {
        self.schema == CUSTOM
    }

    /// As Weir keeps it.
    ///
    /// # Errors
    /// If it has fractional counts, an unknown schema or buckets that do not add up.
    pub(super) fn to_histogram(&self) -> Result<Histogram, BadSeries> {
        let positive = self.positive.dense()?;
        let negative = self.negative.dense()?;
        let (count, sum) = (self.count.int()?, self.sum);
        if self.is_custom() {
            let (offset, values) = positive;
            let buckets = self.bounds.len() + 1;
            let start = usize::try_from(offset).ok().filter(|s| s + values.len() <= buckets);
            let Some(start) = start.filter(|_| negative.1.is_empty() && buckets <= BUCKETS_MAX)
            else {
                return Err(bad("the buckets do not fit `custom_values`"));
            };
            let mut counts = vec![0; buckets];
            counts[start..start + values.len()].copy_from_slice(&values);
            return Ok(Histogram { count, sum, counts, exponential: None });
        }
        if !EXPONENTIAL.contains(&self.schema) {
            return Err(bad(&format!("schema {} is not known", self.schema)));
        }
        let otel = |(offset, counts): (i64, Vec<i64>)| (offset - 1, counts);
        let exponential = Exponential {
            scale: self.schema,
            zero_count: self.zero_count.int()?,
            zero_threshold: self.zero_threshold,
            positive: otel(positive),
            negative: otel(negative),
        };
        Ok(Histogram { count, sum, counts: Vec::new(), exponential: Some(exponential) })
    }
}

fn bad(why: &str) -> BadSeries {
    BadSeries::new("bad_histogram", format!("histogram: {why}"))
}

fn span(value: Value<'_>) -> Result<(i64, u64), Malformed> {
    let (mut offset, mut length) = (0, 0);
    for field in Fields(value.bytes()?) {
        let field = field?;
        match field.number {
            1 => offset = zigzag(field.value.varint()?),
            2 => length = field.value.varint()?,
            _ => {}
        }
    }
    Ok((offset, length))
}

impl Count {
    fn int(self) -> Result<i64, BadSeries> {
        match self {
            Self::Int(n) => i64::try_from(n).map_err(|_| bad("a count is above 2^63")),
            Self::Float(f) => int(f),
        }
    }
}

/// A count that came as a double.
fn int(f: f64) -> Result<i64, BadSeries> {
    if f.fract() == 0.0 && (0.0..=9e15).contains(&f) {
        return Ok(f as i64);
    }
    Err(bad("fractional counts cannot be kept"))
}

impl Side {
    /// Index of the first bucket, and the count of each up to the last.
    fn dense(&self) -> Result<(i64, Vec<i64>), BadSeries> {
        let first = self.spans.first().map_or(0, |span| span.0);
        let mut counts = Vec::new();
        let mut values = Values { side: self, next: 0, last: 0 };
        for (i, &(offset, length)) in self.spans.iter().enumerate() {
            let gap = if i == 0 { 0 } else { offset };
            let gap = usize::try_from(gap).map_err(|_| bad("spans overlap"))?;
            let length = usize::try_from(length).map_err(|_| bad("a span is too long"))?;
            if counts.len().saturating_add(gap).saturating_add(length) > BUCKETS_MAX {
                return Err(bad("more than 16384 buckets"));
            }
            counts.resize(counts.len() + gap, 0);
            for _ in 0..length {
                counts.push(values.take()?);
            }
        }
        if values.next < self.deltas.len().max(self.counts.len()) {
            return Err(bad("more counts than buckets"));
        }
        // Far beyond what a double reaches.
        if first.unsigned_abs() > 1 << 40 {
            return Err(bad("a bucket index is out of range"));
        }
        Ok((first, counts))
    }
}

/// The counts of a side in order.
struct Values<'a> {
    side: &'a Side,
    next: usize,
    last: i64,
}

impl Values<'_> {
    fn take(&mut self) -> Result<i64, BadSeries> {
        let i = self.next;
        self.next += 1;
        if let Some(delta) = self.side.deltas.get(i) {
            let sum = self.last.checked_add(zigzag(*delta)).filter(|n| *n >= 0);
            self.last = sum.ok_or_else(|| bad("a count is out of range"))?;
            return Ok(self.last);
        }
        let count = self.side.counts.get(i).ok_or_else(|| bad("fewer counts than buckets"))?;
        int(*count)
    }
}
