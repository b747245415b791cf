//! Numbers the groups that rows belong to.

use std::hash::BuildHasher;

use arrow::array::{Array, ArrayRef, TimestampNanosecondArray, UInt32Array};
use arrow::compute;
use arrow::datatypes::SchemaRef;
use datafusion::common::{Result, exec_datafusion_err};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::{GroupValues, new_group_values};
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use hashbrown::{DefaultHashBuilder, HashTable};

/// Numbers the distinct tuples of some columns, in the order in which they come.
pub(super) struct Ordinals {
    schema: SchemaRef,
    values: Box<dyn GroupValues>,
    numbers: Vec<usize>,
}

impl Ordinals {
    pub(super) fn new(schema: SchemaRef) -> Result<Self> {
        let values = new_group_values(schema.clone(), &GroupOrdering::None)?;
        Ok(Self { schema, values, numbers: Vec::new() })
    }

    /// Whether there are no columns, and so one tuple.
    pub(super) fn is_constant(&self) -> bool {
        self.schema.fields().is_empty()
    }

    /// The number of each row.
    pub(super) fn number(&mut self, columns: &[ArrayRef]) -> Result<&[usize]> {
        self.values.intern(columns, &mut self.numbers)?;
        Ok(&self.numbers)
    }

    /// The tuples that were numbered, in order; then none are known, unless they shall `stay`.
    fn take(&mut self, stay: bool) -> Result<Vec<ArrayRef>> {
        if self.is_constant() {
            return Ok(Vec::new());
        }
        let fresh = new_group_values(self.schema.clone(), &GroupOrdering::None)?;
        let tuples = std::mem::replace(&mut self.values, fresh).emit(EmitTo::All)?;
        if stay {
            // They are distinct and in order, so that each gets the number that it had.
            self.number(&tuples)?;
        }
        Ok(tuples)
    }

    fn bytes(&self) -> usize {
        self.values.size() + self.numbers.capacity() * size_of::<usize>()
    }
}

/// Groups that are found without a look into the table.
const RECENT: usize = 128;
/// Odd, so that few row tuples of few label tuples get places of their own.
const RECENT_SPREAD: u32 = 31;

/// What distinguishes a group: tuples of label and row columns by number, and a time.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    label: u32,
    row: u32,
    time: Option<i64>,
}

/// The groups of one partition.
pub(super) struct Groups {
    /// Of columns that are the same for all rows of an entity.
    pub(super) labels: Ordinals,
    /// Of columns that may differ from row to row.
    pub(super) rows: Ordinals,
    known: HashTable<u32>,
    keys: Vec<Key>,
    hasher: DefaultHashBuilder,
    /// Groups that were met last, by their tuples: rows take turns with few.
    recent: Box<[Option<(Key, usize)>; RECENT]>,
    /// The group of each row of the last batch.
    numbers: Vec<usize>,
}

/// The columns by which groups are told apart.
pub(super) struct Tuples {
    pub(super) labels: Vec<ArrayRef>,
    pub(super) rows: Vec<ArrayRef>,
    pub(super) times: TimestampNanosecondArray,
}

impl Groups {
    pub(super) fn new(labels: SchemaRef, rows: SchemaRef) -> Result<Self> {
        Ok(Self {
            labels: Ordinals::new(labels)?,
            rows: Ordinals::new(rows)?,
            known: HashTable::new(),
            keys: Vec::new(),
            hasher: DefaultHashBuilder::default(),
            recent: Box::new([None; RECENT]),
            numbers: Vec::new(),
        })
    }

    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.labels.bytes()
            + self.rows.bytes()
            + self.known.capacity() * (size_of::<u32>() + 1)
            + self.keys.capacity() * size_of::<Key>()
            + self.numbers.capacity() * size_of::<usize>()
    }

    /// Finds the group of each row. `labels` and `rows` have the tuples of each row by number; there
    /// are no `rows` where all are the same, and no `times` likewise.
    ///
    /// # Errors
    /// If there are more than 2^32 groups.
    pub(super) fn number(
        &mut self,
        labels: &[u32],
        rows: Option<&[u32]>,
        times: Option<&TimestampNanosecondArray>,
    ) -> Result<()> {
        let Self { known, keys, hasher, recent, numbers, .. } = self;
        numbers.clear();
        numbers.reserve(labels.len());
        for (i, &label) in labels.iter().enumerate() {
            let row = rows.map_or(0, |rows| rows[i]);
            let time = match times {
                Some(times) if times.nulls().is_none_or(|n| n.is_valid(i)) => Some(times.value(i)),
                _ => None,
            };
            let key = Key { label, row, time };
            let place = &mut recent[(label ^ row.wrapping_mul(RECENT_SPREAD)) as usize % RECENT];
            let number = match place {
                Some((same, number)) if *same == key => *number,
                _ => find(known, keys, hasher, key)?,
            };
            *place = Some((key, number));
            numbers.push(number);
        }
        Ok(())
    }

    /// The group of each row that came last.
    pub(super) fn numbers(&self) -> &[usize] {
        &self.numbers
    }

    /// The columns of all groups, in order of their numbers; then there are none. `go_on`: label
    /// tuples keep their numbers.
    pub(super) fn take(&mut self, go_on: bool) -> Result<Tuples> {
        let keys = std::mem::take(&mut self.keys);
        self.known.clear();
        self.recent.fill(None);
        let gather = |tuples: Vec<ArrayRef>, of: fn(&Key) -> u32| -> Result<Vec<ArrayRef>> {
            let at = UInt32Array::from_iter_values(keys.iter().map(of));
            let taken = tuples.iter().map(|a| compute::take(a, &at, None));
            Ok(taken.collect::<std::result::Result<_, _>>()?)
        };
        Ok(Tuples {
            labels: gather(self.labels.take(go_on)?, |k| k.label)?,
            rows: gather(self.rows.take(false)?, |k| k.row)?,
            times: keys.iter().map(|k| k.time).collect(),
        })
    }
}

fn find(
    known: &mut HashTable<u32>,
    keys: &mut Vec<Key>,
    hasher: &DefaultHashBuilder,
    key: Key,
) -> Result<usize> {
    let hash = hasher.hash_one(key);
    if let Some(&number) = known.find(hash, |&n| keys[n as usize] == key) {
        return Ok(number as usize);
    }
    let number =
        u32::try_from(keys.len()).map_err(|_| exec_datafusion_err!("there are too many groups"))?;
    keys.push(key);
    known.insert_unique(hash, number, |&n| hasher.hash_one(keys[n as usize]));
    Ok(number as usize)
}
