//! Windows whose rows leave as metrics: what the operators that make metrics have in common.

pub(crate) mod durations;

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Float64Array, Int64Array, Int64Builder, ListBuilder, RecordBatch,
    StringArray, StructArray, TimestampNanosecondArray, UInt32Array, new_null_array,
};
use arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema, TimestampNanosecondType};
use arrow::util::display::array_value_to_string;
use weir_pipeline::batch::{Batch, Keys, Run, TENANT};
use weir_pipeline::component::{Operator, OperatorError, Output, Tick};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{Attribute, Entity, EntitySpace, Origin, Value};
use weir_pipeline::signal::{META_JSON, Signal, histogram_fields, timestamp};

use crate::window::{END, START, Shape, Window};

/// One data point.
#[derive(Debug)]
pub(crate) struct Point {
    /// When what it counts began and ended, UTC nanoseconds.
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) entity: Entity,
    pub(crate) value: Option<f64>,
    pub(crate) histogram: Option<Histogram>,
    /// JSON, as sources write it.
    pub(crate) exemplars: Option<String>,
}

impl Point {
    /// A number of the time `start..end`.
    pub(crate) fn value((start, end): (i64, i64), entity: Entity, value: f64) -> Self {
        Self { start, end, entity, value: Some(value), histogram: None, exemplars: None }
    }

    /// A histogram of the time `start..end`.
    pub(crate) fn histogram(
        (start, end): (i64, i64),
        entity: Entity,
        histogram: Histogram,
        exemplars: Option<String>,
    ) -> Self {
        Self { start, end, entity, value: None, histogram: Some(histogram), exemplars }
    }
}

/// A histogram of explicit bounds.
#[derive(Debug)]
pub(crate) struct Histogram {
    pub(crate) count: i64,
    pub(crate) sum: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
    pub(crate) counts: Vec<i64>,
}

/// Makes points of the rows of closed windows.
pub(crate) trait Points: Send {
    /// In the order in which they leave.
    fn points(&self, windows: &RecordBatch) -> Result<Vec<Point>, OperatorError>;
}

/// Windows that leave as metrics.
pub(crate) struct Metered {
    window: Window,
    points: Box<dyn Points>,
    /// Where the entities of emitted rows live.
    entities: EntitySpace,
}

impl Metered {
    pub(crate) fn new(shape: Arc<Shape>, points: Box<dyn Points>) -> Self {
        Self { window: Window::new(shape), points, entities: EntitySpace::default() }
    }

    /// Passes on what windows emitted since, their rows as metrics.
    fn metered(&self, made: Output, out: &mut Output) -> Result<(), OperatorError> {
        for (name, batch) in made.emitted {
            if !name.is_empty() {
                out.emit_to(name, batch);
                continue;
            }
            let points = self.points.points(batch.rows())?;
            let run = batch.runs().first().cloned();
            if let Some(run) = run.filter(|_| !points.is_empty()) {
                out.emit(rows(points, &self.entities, run)?);
            }
        }
        for (batch, errors) in made.rejected {
            out.reject(batch, errors);
        }
        out.dropped += made.dropped;
        Ok(())
    }
}

/// The edge of such an operator: metrics with these entity columns.
pub(crate) fn edge(labels: impl IntoIterator<Item = String>) -> Edge {
    let mut edge = Edge::open(Signal::Metrics);
    edge.columns.extend(labels.into_iter().map(|label| (label, None)));
    edge.open = false;
    edge
}

/// The attributes that tell the metric of a point.
pub(crate) fn metric(name: &str, kind: &str, unit: &str, bounds: Option<&str>) -> Vec<Attribute> {
    let of =
        |name: &str, value: Value| Attribute { name: name.into(), value, origin: Origin::Metric };
    let mut all = vec![
        of("metric.name", Value::Text(name.into())),
        of("metric.type", Value::Text(kind.into())),
    ];
    if kind != "gauge" {
        all.push(of("metric.temporality", Value::Text("delta".into())));
    }
    if !unit.is_empty() {
        all.push(of("metric.unit", Value::Text(unit.into())));
    }
    all.extend(bounds.map(|bounds| of("metric.bounds", Value::Json(bounds.into()))));
    all
}

/// A label of the value at `row`, none where it is NULL.
pub(crate) fn label(name: &str, array: &ArrayRef, row: usize) -> Option<Attribute> {
    if array.is_null(row) {
        return None;
    }
    let value = match array.data_type() {
        DataType::Utf8 => Value::Text(array.as_string::<i32>().value(row).into()),
        DataType::Int64 => Value::Int(array.as_primitive::<Int64Type>().value(row)),
        DataType::Float64 => Value::Double(array.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => Value::Bool(array.as_boolean().value(row)),
        _ => Value::Text(array_value_to_string(array, row).ok()?.into()),
    };
    let origin = if name.starts_with("service.") { Origin::Resource } else { Origin::Label };
    Some(Attribute { name: name.into(), value, origin })
}

/// Start and end of the windows that `rows` are of.
pub(crate) fn times(rows: &RecordBatch, row: usize) -> Result<(i64, i64), OperatorError> {
    let time = |name: &str| {
        let array = column(rows, name)?;
        Ok::<i64, OperatorError>(array.as_primitive::<TimestampNanosecondType>().value(row))
    };
    Ok((time(START)?, time(END)?))
}

/// A column that the windows have.
pub(crate) fn column<'a>(rows: &'a RecordBatch, name: &str) -> Result<&'a ArrayRef, OperatorError> {
    rows.column_by_name(name).ok_or_else(|| OperatorError::new(format!("no column `{name}`")))
}

fn rows(points: Vec<Point>, space: &EntitySpace, run: Run) -> Result<Batch, OperatorError> {
    let time = |of: fn(&Point) -> i64| -> ArrayRef {
        let times = TimestampNanosecondArray::from_iter_values(points.iter().map(of));
        Arc::new(times.with_timezone("UTC"))
    };
    let json = Field::new("exemplars", DataType::Utf8, true)
        .with_metadata([(META_JSON.to_owned(), "true".to_owned())].into());
    let exemplars: StringArray = points.iter().map(|p| p.exemplars.as_deref()).collect();
    let values: Float64Array = points.iter().map(|p| p.value).collect();
    let histograms = histograms(&points)?;
    let fields = vec![
        Field::new("timestamp", timestamp(), true),
        Field::new("start_timestamp", timestamp(), true),
        Field::new("value", DataType::Float64, true),
        Field::new("histogram", histograms.data_type().clone(), true),
        json,
    ];
    let columns: Vec<ArrayRef> = vec![
        time(|p| p.end),
        time(|p| p.start),
        Arc::new(values),
        Arc::new(histograms),
        Arc::new(exemplars),
    ];
    let record = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)?;
    let run = Run { rows: points.len(), ..run };
    let table = space.table();
    let keys = points.into_iter().map(|p| table.intern(p.entity)).collect::<Result<Vec<u32>, _>>();
    let keys = UInt32Array::from(keys.map_err(|e| OperatorError::new(e.to_string()))?);
    let keys = Keys { keys, table };
    Ok(Batch::new(Signal::Metrics, TENANT.into(), record, Some(keys), [run].into())?)
}

fn histograms(points: &[Point]) -> Result<StructArray, OperatorError> {
    let of = |value: fn(&Histogram) -> f64| -> ArrayRef {
        let values = points.iter().map(|p| p.histogram.as_ref().map(value));
        Arc::new(values.collect::<Float64Array>())
    };
    let mut counts = ListBuilder::new(Int64Builder::new());
    for point in points {
        let all = point.histogram.as_ref().map(|h| h.counts.iter().copied().map(Some));
        counts.append_option(all);
    }
    let counts: ArrayRef = Arc::new(counts.finish());
    let count: Int64Array = points.iter().map(|p| p.histogram.as_ref().map(|h| h.count)).collect();
    let fields = histogram_fields();
    let arrays = fields.iter().map(|field| match field.name().as_str() {
        "count" => Arc::new(count.clone()),
        "sum" => of(|h| h.sum),
        "min" => of(|h| h.min),
        "max" => of(|h| h.max),
        "counts" => counts.clone(),
        _ => new_null_array(field.data_type(), points.len()),
    });
    let arrays = arrays.collect();
    let nulls = points.iter().map(|p| p.histogram.is_some()).collect::<Vec<bool>>().into();
    Ok(StructArray::try_new(fields, arrays, Some(nulls))?)
}

impl Operator for Metered {
    fn process(
        &mut self,
        input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        self.window.process(input, batch, out)
    }

    fn tick(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        let mut made = Output { now: out.now, ..Output::default() };
        self.window.tick(tick, &mut made)?;
        self.metered(made, out)
    }

    fn watermark(&self, inputs: i64) -> i64 {
        self.window.watermark(inputs)
    }

    fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
        self.window.snapshot()
    }

    fn restore(&mut self, state: &[u8]) -> Result<(), OperatorError> {
        self.window.restore(state)
    }

    fn flush(&mut self, tick: Tick, out: &mut Output) -> Result<(), OperatorError> {
        let mut made = Output { now: out.now, ..Output::default() };
        self.window.flush(tick, &mut made)?;
        self.metered(made, out)
    }
}
