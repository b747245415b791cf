//! Remote write 1.0, written by hand.

use super::load::nanoseconds;

/// What a sender says of its body.
pub(crate) const HEADERS: [(&str, &str); 3] = [
    ("content-encoding", "snappy"),
    ("content-type", "application/x-protobuf"),
    ("x-prometheus-remote-write-version", "0.1.0"),
];

/// A body with one sample, stamped now, for each (value of `label`, value).
pub(crate) fn body<L: ToString>(metric: &str, label: &str, samples: &[(L, f64)]) -> Vec<u8> {
    body_at(nanoseconds() / 1_000_000, metric, label, samples)
}

/// As [`body`], stamped at `milliseconds`.
pub(crate) fn body_at<L: ToString>(
    milliseconds: i64,
    metric: &str,
    label: &str,
    samples: &[(L, f64)],
) -> Vec<u8> {
    let milliseconds = u64::try_from(milliseconds).unwrap();
    let mut request = Vec::new();
    for (labelled, value) in samples {
        let mut series = Vec::new();
        let mut labels = [("__name__", metric.to_owned()), (label, labelled.to_string())];
        labels.sort();
        for (name, value) in labels {
            let mut pair = Vec::new();
            field(&mut pair, 1, name.as_bytes());
            field(&mut pair, 2, value.as_bytes());
            field(&mut series, 1, &pair);
        }
        let mut sample = vec![0x09];
        sample.extend(value.to_le_bytes());
        sample.push(0x10);
        varint(&mut sample, milliseconds);
        field(&mut series, 2, &sample);
        field(&mut request, 1, &series);
    }
    snap::raw::Encoder::new().compress_vec(&request).unwrap()
}

/// A field that holds bytes.
fn field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend(bytes);
}

fn varint(out: &mut Vec<u8>, mut n: u64) {
    while n > 0x7f {
        out.push((n & 0x7f) as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}
