//! Answers in the form that the client accepts, batch by batch.

use std::io;

use arrow::array::RecordBatch;
use arrow::ipc::writer::StreamWriter;
use axum::body::Bytes;
use axum::http::{HeaderMap, StatusCode, header};
use futures::Stream;
use serde_json::json;
use weir_store::query::Answer;

use crate::error::ApiError;
use crate::value::{row_json, text_csv, value_csv};

/// Rows that are encoded before the task yields: a batch of wide rows is megabytes of JSON.
const ROWS_AT_A_TIME: usize = 1_024;
/// What such rows take at most in memory, unless there is only one.
const BYTES_AT_A_TIME: usize = 1 << 20;

/// The form of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Ndjson,
    Csv,
    Arrow,
}

impl Format {
    const NAMES: [(&'static str, Self); 7] = [
        ("application/json", Self::Json),
        ("application/x-ndjson", Self::Ndjson),
        ("application/ndjson", Self::Ndjson),
        ("application/jsonl", Self::Ndjson),
        ("text/csv", Self::Csv),
        ("application/vnd.apache.arrow.stream", Self::Arrow),
        ("*/*", Self::Json),
    ];

    /// The first known form in `Accept`; weights are not looked at.
    ///
    /// # Errors
    /// If none is known.
    pub(crate) fn accepted(headers: &HeaderMap) -> Result<Self, ApiError> {
        let Some(accept) = headers.get(header::ACCEPT) else { return Ok(Self::Json) };
        let accept = accept.to_str().unwrap_or("");
        let wanted = accept.split(',').map(|a| a.split(';').next().unwrap_or("").trim());
        wanted
            .filter_map(|w| Self::NAMES.iter().find(|(n, _)| n.eq_ignore_ascii_case(w)))
            .map(|(_, format)| *format)
            .next()
            .ok_or_else(|| {
                let names: Vec<&str> = Self::NAMES[..6].iter().map(|(n, _)| *n).collect();
                ApiError::new(
                    StatusCode::NOT_ACCEPTABLE,
                    "accept",
                    format!("no known form in `Accept: {accept}`; there are: {}", names.join(", ")),
                )
            })
    }

    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Ndjson => "application/x-ndjson",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// The body of an answer. Dropping it ends the query.
pub(crate) fn encode(
    format: Format,
    answer: Answer,
) -> Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static, ApiError> {
    let encoder = Encoder::new(format, &answer)?;
    let state = State { answer, encoder, batch: None, step: ROWS_AT_A_TIME, done: false };
    Ok(futures::stream::unfold(state, |mut state| async move {
        let item = state.next().await?;
        Some((item, state))
    }))
}

struct State {
    answer: Answer,
    encoder: Encoder,
    /// What is left of the batch at hand.
    batch: Option<RecordBatch>,
    /// Rows of it that are encoded at a time.
    step: usize,
    done: bool,
}

impl State {
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        if self.done {
            return None;
        }
        if let Some(head) = self.encoder.head.take() {
            return Some(Ok(head.into()));
        }
        if self.batch.is_none() {
            match self.answer.next().await {
                Some(Ok(batch)) => {
                    let row_bytes = batch.get_array_memory_size() / batch.num_rows().max(1);
                    self.step = (BYTES_AT_A_TIME / row_bytes.max(1)).clamp(1, ROWS_AT_A_TIME);
                    self.batch = Some(batch);
                }
                Some(Err(e)) => {
                    self.done = true;
                    return Some(self.encoder.failed(&e.into()));
                }
                None => {
                    self.done = true;
                    return Some(self.encoder.end(&self.answer));
                }
            }
        }
        let batch = self.batch.take()?;
        let now = batch.num_rows().min(self.step);
        if now < batch.num_rows() {
            self.batch = Some(batch.slice(now, batch.num_rows() - now));
        }
        Some(self.encoder.rows(&batch.slice(0, now)))
    }
}

struct Encoder {
    format: Format,
    head: Option<Vec<u8>>,
    rows: u64,
    arrow: Option<StreamWriter<Vec<u8>>>,
}

impl Encoder {
    fn new(format: Format, answer: &Answer) -> Result<Self, ApiError> {
        let schema = answer.schema();
        let mut head = Vec::new();
        let mut arrow = None;
        match format {
            Format::Json => {
                let columns: Vec<_> = schema
                    .fields()
                    .iter()
                    .map(|f| json!({ "name": f.name(), "type": f.data_type().to_string() }))
                    .collect();
                head = format!("{{\"columns\":{},\"rows\":[", json!(columns)).into_bytes();
            }
            Format::Ndjson => {}
            Format::Csv => {
                for (i, field) in schema.fields().iter().enumerate() {
                    if i > 0 {
                        head.push(b',');
                    }
                    text_csv(&mut head, field.name());
                }
                head.extend_from_slice(b"\r\n");
            }
            Format::Arrow => {
                let mut writer = StreamWriter::try_new(Vec::new(), schema)
                    .map_err(|e| ApiError::internal(format!("cannot write Arrow: {e}")))?;
                std::mem::swap(&mut head, writer.get_mut());
                arrow = Some(writer);
            }
        }
        let head = (!head.is_empty()).then_some(head);
        Ok(Self { format, head, rows: 0, arrow })
    }

    fn rows(&mut self, batch: &RecordBatch) -> io::Result<Bytes> {
        let mut out = Vec::with_capacity(batch.num_rows() * 64);
        match self.format {
            Format::Json => {
                for i in 0..batch.num_rows() {
                    out.extend_from_slice(if self.rows == 0 { b"\n" } else { b",\n" });
                    row_json(&mut out, batch, i);
                    self.rows += 1;
                }
            }
            Format::Ndjson => {
                for i in 0..batch.num_rows() {
                    row_json(&mut out, batch, i);
                    out.push(b'\n');
                }
            }
            Format::Csv => {
                for i in 0..batch.num_rows() {
                    for (n, column) in batch.columns().iter().enumerate() {
                        if n > 0 {
                            out.push(b',');
                        }
                        value_csv(&mut out, column, i);
                    }
                    out.extend_from_slice(b"\r\n");
                }
            }
            Format::Arrow => {
                if let Some(writer) = &mut self.arrow {
                    writer.write(batch).map_err(io::Error::other)?;
                    std::mem::swap(&mut out, writer.get_mut());
                }
            }
        }
        Ok(out.into())
    }

    fn end(&mut self, answer: &Answer) -> io::Result<Bytes> {
        match self.format {
            Format::Json => {
                let (warnings, cost) = (json!(answer.warnings()), json!(answer.cost()));
                Ok(format!("\n],\"warnings\":{warnings},\"cost\":{cost}}}\n").into())
            }
            Format::Ndjson | Format::Csv => Ok(Bytes::new()),
            Format::Arrow => match self.arrow.take() {
                Some(mut writer) => {
                    writer.finish().map_err(io::Error::other)?;
                    Ok(std::mem::take(writer.get_mut()).into())
                }
                None => Ok(Bytes::new()),
            },
        }
    }

    /// The answer ends early.
    fn failed(&mut self, error: &ApiError) -> io::Result<Bytes> {
        match self.format {
            Format::Json => Ok(format!("\n],\"error\":{}}}\n", error.body()).into()),
            Format::Ndjson => Ok(format!("{}\n", json!({ "weir.error": error.body() })).into()),
            Format::Csv | Format::Arrow => Err(io::Error::other(error.body().to_string())),
        }
    }
}
