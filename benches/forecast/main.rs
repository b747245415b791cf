//! How well the `forecast` operator forecasts, and what that costs.
//!
//! `cargo bench -p weir-operators --bench forecast` prints what becomes of made-up disks that fill;
//! with `WEIR_M4=/path/to/M4-methods/Dataset` also the scores on the hourly series of the M4
//! competition, by its own measures. The data are not part of Weir.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a bench reads the clock")]

mod fill;
mod m4;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{
    ArrayRef, AsArray, Float64Array, RecordBatch, TimestampNanosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Float64Type, Schema};
use weir_operators::ALL;
use weir_pipeline::batch::{Batch, Keys, Run};
use weir_pipeline::component::{Output, Tick};
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::entity::{Entity, EntityTable};
use weir_pipeline::signal::{Signal, timestamp};

fn main() {
    fill::print();
    match std::env::var_os("WEIR_M4") {
        Some(folder) => m4::print(Path::new(&folder)),
        None => println!(
            "\nset WEIR_M4 to the folder Dataset of https://github.com/Mcompetitions/M4-methods"
        ),
    }
}

/// What the operator says of one series of evenly spaced values, and how long that took.
struct Said {
    batch: Option<Batch>,
    time: Duration,
}

impl Said {
    /// Of each row; not a number where it is NULL.
    fn column(&self, name: &str) -> Vec<f64> {
        let array = self.batch.as_ref().map(|b| (b.array(name), b.num_rows()));
        match array {
            Some((Some(array), _)) => {
                array.as_primitive::<Float64Type>().iter().map(|v| v.unwrap_or(f64::NAN)).collect()
            }
            Some((None, rows)) => vec![f64::NAN; rows],
            None => Vec::new(),
        }
    }
}

/// Runs the operator over `values`, one each `step` seconds from a Monday on.
fn forecast(section: &str, step: i64, values: &[f64]) -> Said {
    let kind = ALL.iter().find(|k| k.name == "forecast").unwrap();
    let input = Input { name: "in".into(), edge: Edge::open(Signal::Metrics) };
    let section = Section::parse_for_tests("t", section);
    let mut running = (kind.plan)(&section, &Scope::new(vec![input], ".".into())).unwrap().build();
    // One value more closes the last step.
    let count = values.len() + 1;
    let start = 4 * 86_400;
    let time = |i: usize| (start + i as i64 * step) * 1_000_000_000;
    let times = TimestampNanosecondArray::from_iter_values((0..count).map(time));
    let times: ArrayRef = Arc::new(times.with_timezone("UTC"));
    let last = values.last().copied();
    let values: ArrayRef =
        Arc::new(Float64Array::from_iter_values(values.iter().copied().chain(last)));
    let fields = [("timestamp", timestamp()), ("value", DataType::Float64)]
        .map(|(n, t)| Field::new(n, t, true));
    let rows =
        RecordBatch::try_new(Arc::new(Schema::new(fields.to_vec())), vec![times, values]).unwrap();
    let table = Arc::new(EntityTable::default());
    let key = table.intern(Entity::new(Vec::new())).unwrap();
    let keys = Keys { keys: UInt32Array::from(vec![key; count]), table };
    let received = time(count);
    let run = Run { offset: 1, received, source: "in".into(), rows: count };
    let batch =
        Batch::new(Signal::Metrics, "default".into(), rows, Some(keys), [run].into()).unwrap();
    let mut out = Output::default();
    running.process(0, batch, &mut out).unwrap();
    let began = Instant::now();
    let tick = Tick { time: received, elapsed: received, offset: 2, watermark: received, step: 0 };
    running.tick(tick, &mut out).unwrap();
    Said { batch: out.emitted.into_iter().next().map(|(_, batch)| batch), time: began.elapsed() }
}

/// The value that half of all are below.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn mean(values: impl Iterator<Item = f64>) -> f64 {
    let (sum, count) = values.fold((0.0, 0), |(sum, count), v| (sum + v, count + 1));
    sum / f64::from(count)
}
