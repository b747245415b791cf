//! `file` lookup: a table in a file beside the pipeline file.
//!
//! ```toml
//! [lookups.hosts]
//! type = "file"
//! file = "hosts.csv"
//! ```
//!
//! | ending | what it is |
//! |---|---|
//! | `.csv`, `.tsv` | a line per row below a header line with the names of columns |
//! | `.ndjson`, `.jsonl` | a JSON object per line; nested objects are dotted columns |
//! | `.parquet` | a Parquet file |
//! | `.mmdb` | a MaxMind database: see the operator `enrich` |
//!
//! `format` says so where the ending does not. In CSV a column is int, double or bool if all its
//! values are written as such, so that nothing is lost by reading them (`007` stays text); `types`
//! says what else a column is. An empty field is NULL. In NDJSON and Parquet a number that neither an
//! integer of 64 bits nor a double holds with all of its digits is text, and so is its column; as a key
//! it finds the same.
//!
//! The file is read again when it changed. The new rows go live as an edit of the pipeline file does,
//! at one mark: no row sees half of the old and half of the new table. A file that cannot be read
//! leaves the rows in use that were there before, and `weir status` says why. Write a new version
//! under another name and rename it: then it is whole whenever it is read.
//!
//! `sample` are rows that `[[tests]]` go by, so that they hold whatever the file says.
//!
//! Limits: 1 GiB, 20 million rows. The rows of the versions in use lie in memory.

use std::collections::BTreeMap;
use std::io::{Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::compute::concat_batches;
use arrow::csv::ReaderBuilder;
use arrow::csv::reader::Format as CsvFormat;
use arrow::datatypes::{DataType, Field, Schema};
use bytes::Bytes;
use futures::future::BoxFuture;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map, Value};
use weir_pipeline::component::{LookupKind, Services};
use weir_pipeline::config::{Scope, Section, Spanned};
use weir_pipeline::diagnostic::{Diagnostic, Diagnostics};
use weir_pipeline::lookup::{BYTES_MAX, Content, LookupPlan, Place};

use super::numbers::exact_json;
use super::plain::{batch, narrowed, plain, text, typed};
use super::{Sample, Type, sampled};

/// The row of the table.
pub(crate) const KIND: LookupKind = LookupKind {
    name: "file",
    about: "a table in a CSV, NDJSON, Parquet or MaxMind file",
    source: include_str!("file.rs"),
    schema: || schemars::schema_for!(Config),
    plan,
};

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Config {
    /// The file, relative to the pipeline file.
    file: Spanned<String>,
    /// What it is. Default: by its ending.
    format: Option<Format>,
    /// CSV: what stands between values. Default `,`, of `.tsv` a tabulator.
    delimiter: Option<Spanned<String>>,
    /// CSV: types of columns that are not to be found out.
    #[serde(default)]
    types: BTreeMap<String, Type>,
    /// Rows that `[[tests]]` go by, whatever the file holds.
    sample: Option<Sample>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Format {
    Csv,
    Ndjson,
    Parquet,
    Mmdb,
}

#[derive(Clone, Debug)]
struct FilePlan {
    path: PathBuf,
    format: Format,
    delimiter: u8,
    types: BTreeMap<String, Type>,
    sample: Option<Content>,
}

fn plan(section: &Section, scope: &Scope) -> Result<Box<dyn LookupPlan>, Diagnostics> {
    let config: Config = section.read()?;
    let path = scope.base.join(&config.file.value);
    let ending = path.extension().map(|e| e.to_string_lossy().to_ascii_lowercase());
    let ending = ending.as_deref().unwrap_or_default();
    let format = config.format.or(match ending {
        "csv" | "tsv" => Some(Format::Csv),
        "ndjson" | "jsonl" => Some(Format::Ndjson),
        "parquet" => Some(Format::Parquet),
        "mmdb" => Some(Format::Mmdb),
        _ => None,
    });
    let Some(format) = format else {
        let message = format!("the ending of `{}` does not say what it is", config.file.value);
        let label = "expected `format` to be `csv`, `ndjson`, `parquet` or `mmdb`";
        let unknown = Diagnostic::error("W015", message).at(&section.span(&config.file));
        return Err(unknown.label(label).into());
    };
    let delimiter = match &config.delimiter {
        None if ending == "tsv" => b'\t',
        None => b',',
        Some(given) => match given.value.as_bytes() {
            [one] if one.is_ascii() => *one,
            _ => {
                let message = format!("`delimiter` cannot be `{}`", given.value);
                let wrong = Diagnostic::error("W015", message).at(&section.span(given));
                return Err(wrong.label("expected one ASCII character").into());
            }
        },
    };
    let sample = sampled(section, config.sample)?;
    Ok(Box::new(FilePlan { path, format, delimiter, types: config.types, sample }))
}

impl LookupPlan for FilePlan {
    fn place(&self) -> Place {
        Place::File(self.path.clone())
    }

    fn order_counts(&self) -> bool {
        true
    }

    fn read(&self, _: &Services) -> BoxFuture<'static, Result<Content, String>> {
        let plan = self.clone();
        Box::pin(async move { plan.content() })
    }

    fn sample(&self) -> Option<Content> {
        self.sample.clone()
    }
}

impl FilePlan {
    fn content(&self) -> Result<Content, String> {
        let bytes = read(&self.path)?;
        let content = match self.format {
            Format::Mmdb => return Ok(Content::MaxMind(bytes)),
            Format::Csv => self.csv(&bytes),
            Format::Ndjson => ndjson(&bytes),
            Format::Parquet => parquet(bytes),
        };
        content.map(Content::Rows).map_err(|why| format!("`{}`: {why}", self.path.display()))
    }

    fn csv(&self, bytes: &[u8]) -> Result<RecordBatch, String> {
        let format = CsvFormat::default().with_header(true).with_delimiter(self.delimiter);
        let (header, _) =
            format.infer_schema(Cursor::new(bytes), Some(0)).map_err(|e| e.to_string())?;
        let names: Vec<&String> = header.fields().iter().map(|f| f.name()).collect();
        if let Some(twice) = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)) {
            return Err(format!("column `{}` is there twice", twice.1));
        }
        if let Some(missing) = self.types.keys().find(|t| !names.contains(t)) {
            return Err(format!("`types` names a column `{missing}` that it does not have"));
        }
        let fields = names.iter().map(|name| Field::new(*name, DataType::Utf8, true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let reader = ReaderBuilder::new(schema.clone())
            .with_format(format)
            .build(Cursor::new(bytes))
            .map_err(|e| e.to_string())?;
        let batches: Result<Vec<RecordBatch>, _> = reader.collect();
        let rows = concat_batches(&schema, &batches.map_err(|e| e.to_string())?);
        let rows = rows.map_err(|e| e.to_string())?;
        let columns = schema.fields().iter().zip(rows.columns()).map(|(field, column)| {
            let column: ArrayRef = match self.types.get(field.name()) {
                Some(kind) => typed(text(column), *kind)
                    .map_err(|why| format!("column `{}`: {why}", field.name()))?,
                None => narrowed(text(column)),
            };
            Ok((Field::new(field.name(), column.data_type().clone(), true), column))
        });
        batch(columns.collect::<Result<_, String>>()?, rows.num_rows())
    }
}

/// The bytes of a file within limits.
fn read(path: &Path) -> Result<Bytes, String> {
    let shown = path.display();
    let wrong = |e: std::io::Error| format!("`{shown}`: {}", e.to_string().to_lowercase());
    // To open a pipe would wait for who writes to it.
    if !std::fs::metadata(path).map_err(wrong)?.is_file() {
        return Err(format!("`{shown}` is no file"));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(wrong)?;
    file.take(BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(wrong)?;
    if bytes.len() > BYTES_MAX {
        return Err(format!("`{shown}` is larger than {} MiB", BYTES_MAX >> 20));
    }
    if bytes.is_empty() {
        return Err(format!("`{shown}` is empty"));
    }
    Ok(bytes.into())
}

fn ndjson(bytes: &[u8]) -> Result<RecordBatch, String> {
    let mut rows = Vec::new();
    for (line, text) in bytes.split(|b| *b == b'\n').enumerate() {
        if text.trim_ascii().is_empty() {
            continue;
        }
        let row: Map<String, Value> = serde_json::from_slice(&exact_json(text))
            .map_err(|e| format!("line {}: {e}", line + 1))?;
        rows.push(flat(row));
    }
    match Content::of_objects(&rows)? {
        Content::Rows(rows) => Ok(rows),
        Content::MaxMind(_) => Err("it has no rows".to_owned()),
    }
}

/// An object whose nested objects have become dotted keys.
pub(super) fn flat(row: Map<String, Value>) -> Map<String, Value> {
    fn into(prefix: &str, row: Map<String, Value>, out: &mut Map<String, Value>) {
        for (key, value) in row {
            let name = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
            match value {
                Value::Object(inner) => into(&name, inner, out),
                value => {
                    out.insert(name, value);
                }
            }
        }
    }
    if !row.values().any(Value::is_object) {
        return row;
    }
    let mut out = Map::new();
    into("", row, &mut out);
    out
}

fn parquet(bytes: Bytes) -> Result<RecordBatch, String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    let schema = builder.schema().clone();
    let reader = builder.build().map_err(|e| e.to_string())?;
    let batches: Result<Vec<RecordBatch>, _> = reader.collect();
    let rows = concat_batches(&schema, &batches.map_err(|e| e.to_string())?);
    plain(&rows.map_err(|e| e.to_string())?)
}
