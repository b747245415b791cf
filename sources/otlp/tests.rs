#![allow(clippy::unwrap_used, clippy::expect_used)]

mod decoding;
mod golden;
mod in_place;
mod planning;
mod serving;

use bytes::Bytes;
use prost::Message;
use serde_json::Value;
use weir_pipeline::batch::Batch;
use weir_pipeline::component::{DecodeError, Decoded, Decoder, EntryHead};
use weir_pipeline::entity::EntitySpace;
use weir_pipeline::intake;
use weir_pipeline::journal::Envelope;

use super::decode::OtlpDecoder;

/// When everything in these tests is received: 2023-11-14T22:13:20Z.
const RECEIVED: i64 = 1_700_000_000_000_000_000;

fn decode_within(
    max_bytes: usize,
    (path, content_type, encoding): (&str, &str, &str),
    payload: impl Into<Bytes>,
) -> Result<Decoded, DecodeError> {
    let envelope = Envelope {
        content_type: content_type.to_owned(),
        encoding: encoding.to_owned(),
        path: path.to_owned(),
        ..Envelope::default()
    };
    let head = EntryHead { received: RECEIVED, envelope: &envelope };
    OtlpDecoder::new(max_bytes).decode(&head, &payload.into(), &EntitySpace::default())
}

fn protobuf(path: &str, message: &impl Message) -> Result<Decoded, DecodeError> {
    decode_within(64 << 20, (path, "application/x-protobuf", ""), message.encode_to_vec())
}

fn json(path: &str, text: &str) -> Result<Decoded, DecodeError> {
    let text = text.to_owned();
    decode_within(64 << 20, (path, "application/json; charset=utf-8", ""), text)
}

/// The one batch of what was decoded.
fn batch(decoded: &Decoded) -> Batch {
    let batches = intake::batches(&"otlp".into(), RECEIVED, decoded.clone()).unwrap();
    assert_eq!(batches.len(), 1);
    batches[0].1.clone()
}

/// The rows of both levels as JSON objects, without nulls.
fn rows(decoded: &Decoded) -> Vec<Value> {
    let rows = weir_pipeline::testing::to_rows(&batch(decoded));
    rows.into_iter().map(Value::Object).collect()
}

/// `expect` against the rows, one JSON object each, and a readable difference.
fn expect(decoded: &Decoded, expect: &[Value]) {
    let got = rows(decoded);
    assert_eq!(
        serde_json::to_string_pretty(&got).unwrap(),
        serde_json::to_string_pretty(expect).unwrap()
    );
}

fn rejected(decoded: &Decoded) -> Vec<(&'static str, u64)> {
    decoded.rejected.iter().map(|r| (r.reason, r.rows)).collect()
}
