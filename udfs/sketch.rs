//! A quantile sketch with integer counts: two sketches merge to exactly the sketch of all values,
//! in whatever order and by whatever cuts they came.
//!
//! After DDSketch (Masson, Rim, Lee, VLDB 2019) with linearly interpolated buckets: the bucket of
//! a double is its exponent and the first six bits of its mantissa, so that no logarithm is
//! computed and every machine finds the same bucket. A bucket is at most 1/64 of its lower bound
//! wide, and a value is answered by the middle: the relative error is at most 1/128 (0.8 %), and
//! the smallest and largest value are exact.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// First byte of the portable form.
const TEXT_VERSION: u8 = 1;

/// Buckets kept: 64 octaves of one sign. Beyond it the lowest buckets fall together, which costs
/// accuracy at low quantiles only.
pub const BUCKETS_MAX: usize = 4_096;

/// Mantissa bits that a bucket spans.
const SHIFT: u32 = 52 - 6;

/// Counts of values per bucket. NaN is left out, as NULL is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Sketch {
    buckets: BTreeMap<i32, u64>,
    count: u64,
    range: Option<(f64, f64)>,
}

/// Why bytes are no sketch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Buckets in the order of values: negatives below zero, which is 0.
fn bucket(value: f64) -> i32 {
    if value == 0.0 {
        return 0;
    }
    // 12 + 6 bits without the sign: fits.
    let magnitude = (value.abs().to_bits() >> SHIFT) as i32 + 1;
    if value < 0.0 { -magnitude } else { magnitude }
}

/// The middle of a bucket.
fn middle(bucket: i32) -> f64 {
    if bucket == 0 {
        return 0.0;
    }
    let low = u64::from(bucket.unsigned_abs() - 1) << SHIFT;
    let low = f64::from_bits(low);
    let magnitude =
        if low.is_infinite() { low } else { f64::from_bits(low.to_bits() | 1 << (SHIFT - 1)) };
    if bucket < 0 { -magnitude } else { magnitude }
}

impl Sketch {
    /// Adds one value.
    pub fn add(&mut self, value: f64) {
        if value.is_nan() {
            return;
        }
        self.add_many(bucket(value), 1);
        self.widen(value, value);
    }

    /// Adds all values of another sketch.
    pub fn merge(&mut self, other: &Self) {
        for (&bucket, &count) in &other.buckets {
            self.add_many(bucket, count);
        }
        if let Some((low, high)) = other.range {
            self.widen(low, high);
        }
    }

    fn widen(&mut self, low: f64, high: f64) {
        // -0.0 and 0.0 are one value: the order of arrival must not show.
        let (low, high) = (low + 0.0, high + 0.0);
        let (l, h) = self.range.unwrap_or((low, high));
        self.range = Some((if low < l { low } else { l }, if high > h { high } else { h }));
    }

    fn add_many(&mut self, bucket: i32, count: u64) {
        self.count = self.count.saturating_add(count);
        let slot = self.buckets.entry(bucket).or_default();
        *slot = slot.saturating_add(count);
        if self.buckets.len() > BUCKETS_MAX
            && let Some((_, lowest)) = self.buckets.pop_first()
            && let Some(mut next) = self.buckets.first_entry()
        {
            let slot = next.get_mut();
            *slot = slot.saturating_add(lowest);
        }
    }

    /// Number of values.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The value below which a share `q` of all values lies (0 to 1, clamped): the one of rank
    /// floor(q * (n - 1)). `None` without values.
    pub fn quantile(&self, q: f64) -> Option<f64> {
        let (low, high) = self.range?;
        let last = self.count - 1;
        let q = if q.is_nan() { 0.0 } else { q.clamp(0.0, 1.0) };
        let rank = ((q * last as f64).floor() as u64).min(last);
        if rank == 0 {
            return Some(low);
        }
        if rank == last {
            return Some(high);
        }
        let mut seen = 0u64;
        for (&bucket, &count) in &self.buckets {
            seen = seen.saturating_add(count);
            if seen > rank {
                return Some(middle(bucket).clamp(low, high));
            }
        }
        Some(high)
    }

    /// Bytes in memory, roughly.
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.buckets.len() * 24
    }

    /// The sketch as bytes; equal sketches give equal bytes.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Some((low, high)) = self.range else { return Vec::new() };
        let mut out = Vec::with_capacity(16 + self.buckets.len() * 12);
        out.extend(low.to_le_bytes());
        out.extend(high.to_le_bytes());
        for (bucket, count) in &self.buckets {
            out.extend(bucket.to_le_bytes());
            out.extend(count.to_le_bytes());
        }
        out
    }

    /// The portable form: base64 of a byte 1, the least and the greatest value (doubles, little
    /// endian), and for each bucket in ascending order how much its number is more than that of the
    /// bucket before (of the first: than 0), zigzag, and its count, both LEB128. The number of a
    /// bucket is 0 for zero, else the upper 18 bits of the double without its sign, plus 1, times
    /// the sign. Equal sketches give equal texts; without values it is empty.
    pub fn to_text(&self) -> String {
        let Some((low, high)) = self.range else { return String::new() };
        let mut out = vec![TEXT_VERSION];
        out.extend(low.to_le_bytes());
        out.extend(high.to_le_bytes());
        let mut before = 0i64;
        for (bucket, count) in &self.buckets {
            let more = i64::from(*bucket) - before;
            before = i64::from(*bucket);
            put_varint(&mut out, ((more << 1) ^ (more >> 63)) as u64);
            put_varint(&mut out, *count);
        }
        STANDARD.encode(out)
    }

    /// The inverse of [`Sketch::to_text`].
    ///
    /// # Errors
    /// If the text has another shape.
    pub fn from_text(text: &str) -> Result<Self, Malformed> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let bytes = STANDARD.decode(text).map_err(|_| Malformed)?;
        let (version, rest) = bytes.split_first().ok_or(Malformed)?;
        let (low, rest) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
        let (high, mut rest) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
        let (low, high) = (f64::from_le_bytes(*low), f64::from_le_bytes(*high));
        let mut sketch = Self::default();
        let mut bucket = 0i64;
        while !rest.is_empty() {
            let more = get_varint(&mut rest).ok_or(Malformed)?;
            let count = get_varint(&mut rest).filter(|c| *c > 0).ok_or(Malformed)?;
            let more = (more >> 1) as i64 ^ -((more & 1) as i64);
            bucket = bucket.checked_add(more).ok_or(Malformed)?;
            sketch.add_many(i32::try_from(bucket).map_err(|_| Malformed)?, count);
        }
        // As of NaN, for which all comparisons are false.
        let ordered = low <= high;
        if *version != TEXT_VERSION || sketch.count == 0 || !ordered {
            return Err(Malformed);
        }
        sketch.range = Some((low, high));
        Ok(sketch)
    }

    /// The inverse of [`Sketch::to_bytes`].
    ///
    /// # Errors
    /// If the bytes have another shape.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.is_empty() {
            return Ok(Self::default());
        }
        let (low, rest) = bytes.split_first_chunk::<8>().ok_or(Malformed)?;
        let (high, mut rest) = rest.split_first_chunk::<8>().ok_or(Malformed)?;
        let (low, high) = (f64::from_le_bytes(*low), f64::from_le_bytes(*high));
        let mut sketch = Self::default();
        while !rest.is_empty() {
            let (bucket, tail) = rest.split_first_chunk::<4>().ok_or(Malformed)?;
            let (count, tail) = tail.split_first_chunk::<8>().ok_or(Malformed)?;
            sketch.add_many(i32::from_le_bytes(*bucket), u64::from_le_bytes(*count));
            rest = tail;
        }
        if sketch.count == 0 || low.is_nan() || high.is_nan() || low > high {
            return Err(Malformed);
        }
        sketch.range = Some((low, high));
        Ok(sketch)
    }
}

fn put_varint(out: &mut Vec<u8>, mut number: u64) {
    while number > 0x7f {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn get_varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        let part = u64::from(byte & 0x7f);
        // Of the tenth byte one bit is left.
        if shift == 63 && part > 1 {
            return None;
        }
        number |= part << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn sketch(values: &[f64]) -> Sketch {
        let mut s = Sketch::default();
        values.iter().for_each(|&v| s.add(v));
        s
    }

    #[test]
    fn odd_values() {
        assert_eq!(sketch(&[]).quantile(0.5), None);
        assert_eq!(sketch(&[f64::NAN]).quantile(0.5), None);
        assert_eq!(sketch(&[0.0, -0.0]).quantile(0.5).map(f64::to_bits), Some(0));
        let s = sketch(&[f64::NEG_INFINITY, -1.0, 0.0, 1.0, f64::INFINITY]);
        assert_eq!(s.quantile(0.0), Some(f64::NEG_INFINITY));
        assert_eq!(s.quantile(0.5), Some(0.0));
        assert_eq!(s.quantile(1.0), Some(f64::INFINITY));
        assert_eq!(sketch(&[5e-324, 5e-324, 5e-324]).quantile(0.5), Some(5e-324));
    }

    #[test]
    fn bytes_of_another_shape_are_refused() {
        assert_eq!(Sketch::from_bytes(&[1, 2, 3]), Err(Malformed));
        assert_eq!(Sketch::from_bytes(&[0; 16]), Err(Malformed));
    }

    fn doubles() -> impl Strategy<Value = Vec<f64>> {
        let any = prop_oneof![-1e6..1e6f64, any::<f64>(), Just(0.0), Just(-0.0)];
        proptest::collection::vec(any, 1..300)
    }

    proptest! {
        #[test]
        fn within_one_percent(
            values in proptest::collection::vec(-1e9..1e9f64, 1..300),
            q in 0.0..=1.0f64,
        ) {
            let mut sorted = values.clone();
            sorted.sort_by(f64::total_cmp);
            let exact = sorted[(q * (sorted.len() - 1) as f64).floor() as usize];
            let found = sketch(&values).quantile(q).unwrap();
            prop_assert!((found - exact).abs() <= exact.abs() * 0.01, "{found} for {exact}");
        }

        #[test]
        fn cuts_and_order_do_not_matter(values in doubles(), cut in 0usize..300) {
            let cut = cut.min(values.len());
            let whole = sketch(&values);
            let mut merged = sketch(&values[cut..]);
            merged.merge(&Sketch::from_bytes(&sketch(&values[..cut]).to_bytes()).unwrap());
            prop_assert_eq!(whole.to_bytes(), merged.to_bytes());
            let mut backwards = values;
            backwards.reverse();
            prop_assert_eq!(whole.to_bytes(), sketch(&backwards).to_bytes());
        }

        #[test]
        fn texts_come_back(values in doubles()) {
            let s = sketch(&values);
            prop_assert_eq!(Sketch::from_text(&s.to_text()), Ok(s));
        }

        #[test]
        fn any_text(bytes in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(s) = Sketch::from_text(&STANDARD.encode(&bytes)) {
                prop_assert!(s.quantile(0.5).is_some() || bytes.is_empty());
            }
        }

        #[test]
        fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(s) = Sketch::from_bytes(&bytes) {
                prop_assert!(s.quantile(0.5).is_some() || bytes.is_empty());
            }
        }

        #[test]
        fn many_octaves_stay_bounded(exponents in proptest::collection::vec(-300..300i32, 200)) {
            let mut s = Sketch::default();
            for (i, e) in exponents.iter().enumerate() {
                for m in 0..64 {
                    s.add((1.0 + f64::from(m) / 64.0) * 10f64.powi(*e) * (1.0 + i as f64));
                }
            }
            prop_assert!(s.to_bytes().len() <= 16 + BUCKETS_MAX * 12);
        }
    }
}
