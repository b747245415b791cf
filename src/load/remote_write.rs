//! Remote write: series of one kind, a sample of each every round.

use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use bytes::Bytes;

use super::clock::Clock;
use super::protobuf::{field, varint};
use super::{Feed, mix, now_ns};
use crate::cli::RemoteWriteLoad;

/// Bytes of a varint that holds milliseconds of this century.
const TIME_BYTES: usize = 6;
/// Letters that tell a pod from all before it, where series come and go.
const POD_BYTES: usize = 12;
/// Times that a request is made until what changes stands in it as it is.
const TRIES: usize = 100;
/// Series of one target.
const TARGET_SERIES: usize = 100;
/// Labels that are always there.
const LABELS: usize = 10;

/// The series of a run.
pub(super) struct Model {
    run: Arc<str>,
    series: usize,
    labels: usize,
    per_request: usize,
    /// Series a minute that end, another beginning in their place.
    churn: u64,
    clock: Clock,
}

impl Model {
    pub(super) fn new(args: &RemoteWriteLoad, run: &str, clock: &Clock) -> Result<Self> {
        if args.labels < LABELS {
            bail!("--labels: at least {LABELS}");
        }
        let per_request = args.rows.min(args.series).max(1);
        Ok(Self {
            run: run.into(),
            series: args.series.max(1),
            labels: args.labels,
            per_request,
            churn: args.churn,
            clock: clock.clone(),
        })
    }

    /// What the connection `nth` of `connections` sends: each has its share of the series, as the
    /// queue shards of Prometheus have.
    pub(super) fn feed(&self, nth: usize, connections: usize) -> Result<Series> {
        let share = |n: usize| self.series * n / connections;
        let mut requests = Vec::new();
        let mut first = share(nth);
        while first < share(nth + 1) {
            let end = (first + self.per_request).min(share(nth + 1));
            requests.push(Template::new(self, first..end)?);
            first = end;
        }
        if requests.is_empty() {
            bail!("more connections than series");
        }
        let churn = self.churn as f64 / self.series as f64 / 60.0;
        let clock = self.clock.clone();
        Ok(Series { requests, next: 0, round: 0, began: now_ns(), churn, clock, all: self.series })
    }

    /// The labels of a series, sorted by name; `pod` where pods come and go. Series of one target
    /// follow each other, as a scrape has them.
    fn labels(&self, s: usize, pod: &[u8]) -> Vec<(String, Vec<u8>)> {
        let (target, metric) = (s / TARGET_SERIES, s % TARGET_SERIES);
        let mut labels: Vec<(String, Vec<u8>)> = [
            ("__name__", format!("load_{}_requests", metric / 4)),
            ("cluster", self.run.to_string()),
            ("container", format!("container-{}", target % 7)),
            ("endpoint", "/api/v1/resource".to_owned()),
            ("env", "production".to_owned()),
            ("instance", format!("10.0.{}.{}:9100", target / 250 % 250, target % 250)),
            ("job", format!("job-{}", target % 20)),
            ("mode", ["user", "system", "idle", "iowait"][metric % 4].to_owned()),
            ("pod", format!("pod-{target}-7d9f8b6c5-x2x4z")),
            ("region", "eu-west-1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value.into_bytes()))
        .into();
        if self.churn > 0 {
            labels[8].1 = pod.to_vec();
        }
        for extra in LABELS..self.labels {
            labels.push((
                format!("tag_{extra:03}"),
                format!("value-{}", target % (extra + 3)).into(),
            ));
        }
        labels.sort();
        labels
    }
}

/// The requests of one connection, one round after the other.
pub(super) struct Series {
    requests: Vec<Template>,
    next: usize,
    round: u64,
    began: u64,
    /// Part of the series that is replaced each second.
    churn: f64,
    clock: Clock,
    /// Series of all connections.
    all: usize,
}

impl Feed for Series {
    fn next(&mut self) -> (Bytes, u64) {
        let replaced = (now_ns() - self.began) as f64 / 1e9 * self.churn;
        if self.next == self.requests.len() {
            self.next = 0;
            self.round += 1;
        }
        let request = &mut self.requests[self.next];
        let time = self.clock.round(self.round, self.all);
        request.patch(time / 1_000_000, self.round, replaced);
        self.next += 1;
        (Bytes::copy_from_slice(&request.body), request.series.len() as u64)
    }
}

/// A request whose samples can be changed without compressing it anew: they stand in it as they are.
struct Template {
    series: Range<usize>,
    body: Vec<u8>,
    /// Where each byte that changes stands in `body`: of each series the value, the time, and the
    /// pod where it changes.
    places: Vec<u32>,
    pods: bool,
}

impl Template {
    fn new(model: &Model, series: Range<usize>) -> Result<Self> {
        let pods = model.churn > 0;
        let each = 8 + TIME_BYTES + if pods { POD_BYTES } else { 0 };
        // Bytes by chance are in no copy of snappy's but where they happen to go on like others:
        // those are made anew.
        let mut salts = vec![0; series.len()];
        for _ in 0..TRIES {
            let mut raw = Vec::new();
            let mut wanted = Vec::new();
            for (s, salt) in series.clone().zip(&salts) {
                let mut chance = Chance::new(s, *salt);
                let (value, time): ([u8; 8], [u8; TIME_BYTES]) = (chance.bytes(), chance.bytes());
                let pod: [u8; POD_BYTES] = chance.bytes();
                // Behind the last byte that changes: else all pods that end in it are alike.
                let end = chance.bytes::<4>().map(|b| b'a' + b % 26);
                let mut message = Vec::new();
                for (name, value) in model.labels(s, &[pod.as_slice(), &end].concat()) {
                    let mut label = Vec::new();
                    field(&mut label, 1, name.as_bytes());
                    field(&mut label, 2, &value);
                    field(&mut message, 1, &label);
                }
                let mut sample = vec![0x09];
                sample.extend(value);
                sample.push(0x10);
                sample.extend(time);
                field(&mut message, 2, &sample);
                let start = raw.len();
                field(&mut raw, 1, &message);
                let changing = [Some(&value[..]), Some(&time[..]), pods.then_some(&pod[..])];
                for bytes in changing.into_iter().flatten() {
                    let at = raw[start..].windows(bytes.len()).position(|w| w == bytes);
                    let at = start + at.context("what was written is not there")?;
                    wanted.extend(at..at + bytes.len());
                }
            }
            let body = snap::raw::Encoder::new().compress_vec(&raw)?;
            let places = places(&body, raw.len(), &wanted)?;
            for (salt, places) in salts.iter_mut().zip(places.chunks_exact(each)) {
                *salt += u64::from(places.contains(&None));
            }
            if let Some(places) = places.into_iter().collect() {
                return Ok(Self { series, body, places, pods });
            }
        }
        bail!("no request could be made")
    }

    /// Gives all samples `time` (milliseconds) and the values of `round`; `replaced` says how often
    /// each series was replaced by another so far.
    fn patch(&mut self, time: u64, round: u64, replaced: f64) {
        let mut varint_of_time = Vec::with_capacity(TIME_BYTES);
        varint(&mut varint_of_time, time);
        let each = 8 + TIME_BYTES + if self.pods { POD_BYTES } else { 0 };
        let all = self.series.end as f64;
        for (s, places) in self.series.clone().zip(self.places.chunks_exact(each)) {
            let value = (round * (s as u64 % 100)) as f64 * 0.25;
            let new = value.to_le_bytes().into_iter().chain(varint_of_time.iter().copied());
            for (place, byte) in places.iter().zip(new) {
                self.body[*place as usize] = byte;
            }
            if self.pods {
                let generation = (replaced + s as f64 / all) as u64;
                let pod = format!("{generation:04x}{s:08x}");
                for (place, byte) in places[8 + TIME_BYTES..].iter().zip(pod.bytes()) {
                    self.body[*place as usize] = byte;
                }
            }
        }
    }
}

/// Where the bytes at `wanted` of what was compressed stand in it; `None` for those that do not
/// stand there, or for others too.
fn places(body: &[u8], raw_len: usize, wanted: &[usize]) -> Result<Vec<Option<u32>>> {
    const NONE: u32 = u32::MAX;
    let mut at = body.iter().position(|b| b & 0x80 == 0).context("no length")? + 1;
    // For each byte before compression: its place, if it stands there as it is.
    let mut literal = Vec::with_capacity(raw_len);
    let mut copied = vec![false; raw_len];
    let byte = |at: usize| body.get(at).map(|b| *b as usize).context("cut short");
    while at < body.len() {
        let tag = byte(at)?;
        at += 1;
        if tag & 3 == 0 {
            let extra = (tag >> 2).saturating_sub(59);
            let mut len = if extra == 0 { tag >> 2 } else { 0 };
            for i in 0..extra {
                len |= byte(at + i)? << (8 * i);
            }
            at += extra;
            literal.extend((at..=at + len).map(|place| place as u32));
            at += len + 1;
        } else {
            let (len, offset, bytes) = match tag & 3 {
                1 => (4 + (tag >> 2 & 7), (tag >> 5) << 8 | byte(at)?, 1),
                2 => (1 + (tag >> 2), byte(at)? | byte(at + 1)? << 8, 2),
                _ => bail!("a copy from afar"),
            };
            at += bytes;
            let from = literal.len().checked_sub(offset).context("a copy from before the start")?;
            let end = literal.len();
            copied[from..(from + len).min(end)].fill(true);
            literal.extend(std::iter::repeat_n(NONE, len));
        }
    }
    let place = |at: &usize| (!copied[*at] && literal[*at] != NONE).then(|| literal[*at]);
    Ok(wanted.iter().map(place).collect())
}

/// Bytes that are always the same, and like no others.
struct Chance(u64);

impl Chance {
    fn new(s: usize, salt: u64) -> Self {
        Self(mix(s as u64) ^ salt)
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        std::array::from_fn(|_| {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            mix(self.0) as u8
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn request(churn: u64) -> Template {
        let model = Model {
            run: "load-1".into(),
            series: 2_000,
            labels: 12,
            per_request: 2_000,
            churn,
            clock: Clock::default(),
        };
        Template::new(&model, 0..2_000).unwrap()
    }

    #[test]
    fn a_patched_request_is_what_compressing_it_anew_would_hold() {
        let mut request = request(0);
        request.patch(1_795_000_000_000, 3, 0.0);
        let raw = snap::raw::Decoder::new().decompress_vec(&request.body).unwrap();
        let mut time = Vec::new();
        varint(&mut time, 1_795_000_000_000);
        let mut rest = raw.as_slice();
        for s in 0..2_000_u64 {
            let value = (3 * (s % 100)) as f64 * 0.25;
            let sample = [&[0x09], value.to_le_bytes().as_slice(), &[0x10], &time].concat();
            let at = rest.windows(sample.len()).position(|w| w == sample).unwrap();
            rest = &rest[at + sample.len()..];
        }
        assert!(request.body.len() < 2_000 * 60, "{}", request.body.len());
    }

    #[test]
    fn pods_come_and_go() {
        let pods = |request: &Template| {
            let raw = snap::raw::Decoder::new().decompress_vec(&request.body).unwrap();
            let text = String::from_utf8_lossy(&raw).into_owned();
            (0..2_000).filter(|s| text.contains(&format!("0001{s:08x}"))).count()
        };
        let mut request = request(1);
        request.patch(1, 0, 0.0);
        assert_eq!(pods(&request), 0);
        request.patch(1, 0, 0.5);
        assert_eq!(pods(&request), 1_000);
    }
}
