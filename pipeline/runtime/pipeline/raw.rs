//! Rows for entries that cannot be used: what was received, as it was.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampNanosecondArray};
use arrow::error::ArrowError;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use crate::batch::{Batch, Run};
use crate::edge::{ERROR_COLUMNS, ERRORS};
use crate::journal::Entry;
use crate::signal::Signal;

/// Why an entry that kills is set aside.
pub(in crate::runtime) const SKIPPED: &str = "it killed the pipeline and is skipped";

/// One row: when it was received, the payload (`body`; base64 with `weir.encoding` if it is no
/// text), how it came, and why it was not used.
///
/// # Errors
/// None but defects.
pub(in crate::runtime) fn batch(
    pipeline: &str,
    entry: &Entry,
    why: &str,
) -> Result<Batch, ArrowError> {
    let head = &entry.head;
    let (body, encoding) = match std::str::from_utf8(&head.payload) {
        Ok(text) => (text.to_owned(), "text"),
        Err(_) => (BASE64_STANDARD.encode(&head.payload), "base64"),
    };
    let text = |value: &str| -> ArrayRef { Arc::new(StringArray::from(vec![value])) };
    let received = TimestampNanosecondArray::from(vec![head.received]).with_timezone("UTC");
    let [error, place, component] = ERROR_COLUMNS;
    let rows = RecordBatch::try_from_iter([
        ("timestamp", Arc::new(received) as ArrayRef),
        ("body", text(&body)),
        ("weir.encoding", text(encoding)),
        ("weir.content_type", text(&head.envelope.content_type)),
        ("weir.content_encoding", text(&head.envelope.encoding)),
        ("weir.path", text(&head.envelope.path)),
        ("weir.peer", text(&head.envelope.peer)),
        ("weir.offset", Arc::new(Int64Array::from(vec![entry.offset.cast_signed()]))),
        (error, text(why)),
        (place, text(&format!("entry {}", entry.offset))),
        (component, text(&format!("{pipeline}/{}", head.source))),
    ])?;
    let (received, source) = (head.received, head.source.clone());
    let run = Run { offset: entry.offset, received, source, rows: 1 };
    Batch::new(Signal::named(ERRORS), head.tenant.clone(), rows, None, [run].into())
}
