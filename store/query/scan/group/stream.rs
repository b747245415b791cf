//! The groups of one partition and the states of their aggregates.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, RecordBatch, RecordBatchOptions, TimestampNanosecondArray,
};
use arrow::compute::filter_record_batch;
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
use crate::query::scan::read::{Reader, Rows, Step, Wanted};

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
        ready: VecDeque::new(),
        reader,
    };
    let mut ended = false;
    let stream = futures::stream::poll_fn(move |context| {
        if let Some(batch) = grouper.ready.pop_front() {
            return Poll::Ready(Some(Ok(batch)));
        }
        if ended {
            return Poll::Ready(None);
        }
        // One step of bounded work per poll: whoever waits can stop in between.
        match grouper.step() {
            Ok(end) => ended = end,
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
    /// Groups that are complete.
    ready: VecDeque<RecordBatch>,
}

struct Slice {
    file: Arc<FilePlan>,
    index: usize,
    rows: usize,
    /// Whether groups of it were let go before its end.
    parted: bool,
    /// The time (both ends inclusive) of the groups that are asked for as a whole. Rows at another
    /// time are of groups of which a part is, at most.
    stretch: (i64, i64),
}

/// All of time.
const ALWAYS: (i64, i64) = (i64::MIN, i64::MAX);

impl Grouper {
    /// Does a bounded piece of work; whether it was the last.
    fn step(&mut self) -> Result<bool> {
        let wanted = match self.slice {
            Some(_) => Wanted::All,
            None => match self.begin()? {
                Some(wanted) => wanted,
                None => return Ok(false),
            },
        };
        match (self.reader.step(wanted)?, &mut self.slice) {
            (Step::Rows(rows), Some(slice)) => {
                slice.rows += rows.len();
                let stretch = slice.stretch;
                if stretch != ALWAYS
                    && let Some(cut) = self.cut(&rows, stretch)?
                {
                    let groups = self.rest.add(&cut)?;
                    self.give(groups, ALWAYS)?;
                }
                let groups = self.alone.add(&rows)?;
                if let Some(slice) = &mut self.slice {
                    slice.parted |= groups.is_some();
                }
                self.give(groups, stretch)?;
            }
            (Step::Rows(rows), None) => {
                let groups = self.rest.add(&rows)?;
                self.give(groups, ALWAYS)?;
            }
            (Step::Slice { whole }, _) => {
                if let Some(slice) = self.slice.take() {
                    self.end(&slice, whole)?;
                }
            }
            (Step::More, _) => {}
            (Step::End, _) => {
                let groups = self.rest.emit(false)?;
                self.give(groups, ALWAYS)?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Looks at the slice that comes next, if one does, and gives what is known of it. What is left
    /// to be read of it, `None` if nothing.
    fn begin(&mut self) -> Result<Option<Wanted>> {
        let Some(question) = &self.question else { return Ok(Some(Wanted::Within)) };
        let Some((file, index)) = self.reader.ahead() else { return Ok(Some(Wanted::Within)) };
        let Some(stretch) = question.stretch(file, index) else { return Ok(Some(Wanted::Within)) };
        match question.answer(file, index) {
            Some(Answer::Groups(groups)) => {
                let more = question.has_more(stretch, file, index);
                if !more {
                    self.reader.pass();
                }
                self.give(Some(groups), stretch)?;
                return Ok(more.then_some(Wanted::But(stretch)));
            }
            Some(Answer::TooMany) => {}
            // To read all of it for a small part pays if that is asked again.
            None if stretch != ALWAYS && !question.mostly(file, index) => {
                question.note(file, index);
            }
            None | Some(Answer::Asked) => {
                let file = file.clone();
                self.slice = Some(Slice { file, index, rows: 0, parted: false, stretch });
                return Ok(Some(Wanted::All));
            }
        }
        Ok(Some(Wanted::Within))
    }

    /// Those of `rows` that are asked for and not in `stretch`.
    fn cut(&self, rows: &Rows, stretch: (i64, i64)) -> Result<Option<Rows>> {
        let Some(time) = &self.rest.grouping.time else { return Ok(None) };
        let range = self.reader.shared().range;
        let within = |time: i64, (first, last)| first <= time && time <= last;
        let times = time.rows(rows)?;
        let times = times.as_primitive::<TimestampNanosecondType>().values();
        let mask = times.iter().map(|&t| Some(within(t, range) && !within(t, stretch)));
        let mask: BooleanArray = mask.collect();
        (mask.true_count() > 0).then(|| rows.filter(&mask)).transpose()
    }

    fn end(&mut self, slice: &Slice, whole: bool) -> Result<()> {
        let groups = self.alone.emit(true)?;
        if let Some(question) = self.question.as_ref().filter(|_| whole && !slice.parted) {
            let kept =
                groups.clone().unwrap_or_else(|| RecordBatch::new_empty(self.alone.schema.clone()));
            question.keep(&slice.file, slice.index, slice.rows, kept);
        }
        self.give(groups, slice.stretch)
    }

    /// Hands on those of `groups` that are in `stretch`.
    fn give(&mut self, groups: Option<RecordBatch>, stretch: (i64, i64)) -> Result<()> {
        let Some(mut groups) = groups else { return Ok(()) };
        if stretch != ALWAYS
            && let Some(at) = self.rest.grouping.time_column()
        {
            let times = groups.column(at).as_primitive::<TimestampNanosecondType>().iter();
            let mask = times.map(|t| t.map(|t| stretch.0 <= t && t <= stretch.1));
            groups = filter_record_batch(&groups, &mask.collect())?;
        }
        self.ready.extend(pieces(&groups));
        Ok(())
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
