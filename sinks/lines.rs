//! Rows as JSON lines, for sinks that send text.

use weir_pipeline::batch::Batch;
use weir_pipeline::component::SinkError;

/// The rows of a batch as JSON, one object a line: the columns of
/// both levels that have a value, sorted by name.
pub(crate) fn lines(batch: &Batch) -> Result<Vec<u8>, SinkError> {
    let failed = |e: arrow::error::ArrowError| SinkError::permanent(e.to_string());
    let wide = batch.wide().map_err(failed)?;
    let mut writer = arrow::json::LineDelimitedWriter::new(Vec::new());
    writer.write(&wide).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(writer.into_inner())
}
