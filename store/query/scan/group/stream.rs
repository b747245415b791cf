//! The groups of one partition and the states of their aggregates.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use arrow::array::{ArrayRef, AsArray, RecordBatch, RecordBatchOptions, TimestampNanosecondArray};
use arrow::datatypes::{DataType, SchemaRef, TimestampNanosecondType};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::GroupsAccumulatorAdapter;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;

use super::keys::Groups;
use super::known::{Answer, Question};
use super::labels::Labels;
use super::tuples::RowTuples;
use super::{Axis, Grouping};
use crate::query::scan::file::{BATCH_ROWS, FilePlan};
use crate::query::scan::read::{Reader, Rows, Step};

/// Groups that a partition holds at most. Files of metrics go by the hour, so that most groups are
/// complete by then; those that are not are merged by the final step.
const GROUPS_MAX: usize = 128 << 10;

/// The groups of what `reader` reads, as `schema` has them.
pub(super) fn stream(
    reader: Reader,
    grouping: Arc<Grouping>,
    schema: SchemaRef,
    pool: &Arc<dyn MemoryPool>,
) -> Result<SendableRecordBatchStream> {
    let mut grouper = Grouper {
        question: Question::of(&grouping, reader.shared())?,
        alone: Partial::new(grouping.clone(), schema.clone(), pool)?,
        rest: Partial::new(grouping, schema.clone(), pool)?,
        slice: None,
        reader,
    };
    let mut ready: VecDeque<RecordBatch> = VecDeque::new();
    let mut ended = false;
    let stream = futures::stream::poll_fn(move |context| {
        if let Some(batch) = ready.pop_front() {
            return Poll::Ready(Some(Ok(batch)));
        }
        if ended {
            return Poll::Ready(None);
        }
        // One step of bounded work per poll: whoever waits can stop in between.
        match grouper.step(&mut ended) {
            Ok(batch) => ready.extend(batch.iter().flat_map(pieces)),
            Err(e) => return Poll::Ready(Some(Err(e))),
        }
        context.waker().wake_by_ref();
        Poll::Pending
    });
    Ok(Box::pin(RecordBatchStreamAdapter::new(schema, stream)))
}

/// Groups what it reads: slices whose answer can be remembered each by itself, the rest together.
struct Grouper {
    reader: Reader,
    question: Option<Question>,
    alone: Partial,
    rest: Partial,
    /// The slice of which `alone` has the groups.
    slice: Option<Slice>,
}

struct Slice {
    file: Arc<FilePlan>,
    index: usize,
    rows: usize,
    /// Whether groups of it were let go before its end.
    parted: bool,
}

impl Grouper {
    /// Does a bounded piece of work; what it gives is complete. `ended` is set with the last.
    fn step(&mut self, ended: &mut bool) -> Result<Option<RecordBatch>> {
        if self.slice.is_none()
            && let Some(question) = &self.question
            && let Some((file, index)) = self.reader.ahead()
            && question.covers(file, index)
        {
            match question.answer(file, index) {
                Some(Answer::Groups(groups)) => {
                    self.reader.pass();
                    return Ok(Some(groups));
                }
                Some(Answer::TooMany) => {}
                None => {
                    let file = file.clone();
                    self.slice = Some(Slice { file, index, rows: 0, parted: false });
                }
            }
        }
        match (self.reader.step()?, &mut self.slice) {
            (Step::Rows(rows), Some(slice)) => {
                slice.rows += rows.len();
                let groups = self.alone.add(&rows)?;
                slice.parted |= groups.is_some();
                Ok(groups)
            }
            (Step::Rows(rows), None) => self.rest.add(&rows),
            (Step::Slice { whole }, _) => match self.slice.take() {
                Some(slice) => self.end(&slice, whole),
                None => Ok(None),
            },
            (Step::More, _) => Ok(None),
            (Step::End, _) => {
                *ended = true;
                self.rest.emit(false)
            }
        }
    }

    fn end(&mut self, slice: &Slice, whole: bool) -> Result<Option<RecordBatch>> {
        let groups = self.alone.emit(true)?;
        if let Some(question) = self.question.as_ref().filter(|_| whole && !slice.parted) {
            let kept =
                groups.clone().unwrap_or_else(|| RecordBatch::new_empty(self.alone.schema.clone()));
            question.keep(&slice.file, slice.index, slice.rows, kept);
        }
        Ok(groups)
    }
}

fn pieces(batch: &RecordBatch) -> impl Iterator<Item = RecordBatch> {
    let rows = batch.num_rows();
    let starts = (0..rows).step_by(BATCH_ROWS);
    starts.map(move |start| batch.slice(start, BATCH_ROWS.min(rows - start)))
}

/// Groups that were met, with the states of their aggregates.
struct Partial {
    grouping: Arc<Grouping>,
    schema: SchemaRef,
    groups: Groups,
    labels: Labels,
    tuples: RowTuples,
    states: Vec<Box<dyn GroupsAccumulator>>,
    memory: MemoryReservation,
}

impl Partial {
    fn new(grouping: Arc<Grouping>, schema: SchemaRef, pool: &Arc<dyn MemoryPool>) -> Result<Self> {
        let groups = Groups::new(grouping.labels.schema()?, grouping.rows.schema()?)?;
        let states = grouping.aggregates.iter().map(state).collect::<Result<_>>()?;
        let memory = MemoryConsumer::new("groups of a scan").register(pool);
        let (labels, tuples) = (Labels::default(), RowTuples::default());
        Ok(Self { grouping, schema, groups, labels, tuples, states, memory })
    }

    /// Adds rows; what this gives is complete and was let go.
    fn add(&mut self, rows: &Rows) -> Result<Option<RecordBatch>> {
        let grouping = &*self.grouping;
        let labels = self.labels.number(rows, &grouping.labels, &mut self.groups.labels)?;
        let tuples = self.tuples.number(rows, &grouping.rows, &mut self.groups.rows)?;
        let times = grouping.time.as_ref().map(|time| time.of(rows)).transpose()?;
        let times = times.as_ref().map(|t| t.as_primitive::<TimestampNanosecondType>());
        let arguments = grouping.arguments.of(rows)?;
        let filters = grouping.filters.of(rows)?;
        let (mut arguments, mut filters) = (arguments.as_slice(), filters.iter());
        self.groups.number(labels, tuples, times)?;
        let (numbers, total) = (self.groups.numbers(), self.groups.len());
        for ((state, &count), &filtered) in
            self.states.iter_mut().zip(&grouping.counts).zip(&grouping.filtered)
        {
            let (own, others) = arguments.split_at(count);
            arguments = others;
            let filter = if filtered { filters.next().map(|f| f.as_boolean()) } else { None };
            state.update_batch(own, numbers, filter, total)?;
        }
        let fits = self.memory.try_resize(self.bytes());
        match fits {
            Ok(()) if total < GROUPS_MAX => Ok(None),
            Err(e) if total == 0 => Err(e),
            _ => self.emit(false),
        }
    }

    fn bytes(&self) -> usize {
        let states: usize = self.states.iter().map(|s| s.size()).sum();
        states + self.groups.bytes() + self.labels.bytes() + self.tuples.bytes()
    }

    /// All groups; then there are none. `go_on`: labels keep their numbers, for rows that follow.
    fn emit(&mut self, go_on: bool) -> Result<Option<RecordBatch>> {
        let rows = self.groups.len();
        if rows == 0 {
            return Ok(None);
        }
        let tuples = self.groups.take(go_on)?;
        self.tuples.clear();
        if !go_on {
            self.labels.clear();
        }
        let mut columns = Vec::with_capacity(self.schema.fields().len());
        for (axis, field) in self.grouping.axes.iter().zip(self.schema.fields()) {
            columns.push(match *axis {
                Axis::Label(i) => tuples.labels[i].clone(),
                Axis::Row(i) => tuples.rows[i].clone(),
                Axis::Time => in_zone(&tuples.times, field.data_type()),
            });
        }
        for state in &mut self.states {
            columns.extend(state.state(EmitTo::All)?);
        }
        self.memory.resize(self.bytes());
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let batch = RecordBatch::try_new_with_options(self.schema.clone(), columns, &options);
        batch.map(Some).map_err(DataFusionError::from)
    }
}

/// The same instants, in the zone of `kind`. A cast would take them for local times of that zone.
fn in_zone(times: &TimestampNanosecondArray, kind: &DataType) -> ArrayRef {
    let zone = match kind {
        DataType::Timestamp(_, zone) => zone.clone(),
        _ => None,
    };
    Arc::new(times.clone().with_timezone_opt(zone))
}

fn state(aggregate: &Arc<AggregateFunctionExpr>) -> Result<Box<dyn GroupsAccumulator>> {
    if aggregate.groups_accumulator_supported() {
        return aggregate.create_groups_accumulator();
    }
    let aggregate = aggregate.clone();
    Ok(Box::new(GroupsAccumulatorAdapter::new(move || aggregate.create_accumulator())))
}
