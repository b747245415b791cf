//! What slices gave to questions that were asked before.
//!
//! Files never change, so a slice whose rows are all within the bounds on time gives the same groups
//! each time that it is asked the same. A dashboard that asks again, for a time that has moved on,
//! reads hot rows, new files and the slices at the edges of its time; the groups of a slice are the
//! same as if it had read all. Where groups are bins of time, a slice at an edge is remembered too:
//! what is read of it then are the rows of the bins that the edge cuts.

use std::fmt::Write;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::Result;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{
    BinaryExpr, Column, DynamicFilterPhysicalExpr, InListExpr, IsNotNullExpr, IsNullExpr, LikeExpr,
    Literal, NotExpr,
};
use datafusion::physical_expr::scalar_subquery::ScalarSubqueryExpr;
use datafusion::physical_expr_common::physical_expr::is_volatile;

use super::Grouping;
use super::exprs::Exprs;
use super::times::WholeBins;
use crate::cache::Cache;
use crate::query::cost::Costs;
use crate::query::scan::exec::Shared;
use crate::query::scan::file::FilePlan;
use crate::query::scan::identity::Identity;
use crate::query::scan::prune;

/// Rows of a slice for each group that it is worth to remember: with fewer, whoever puts the groups
/// together would have about as much to do as with the rows.
const ROWS_PER_GROUP: usize = 32;
/// So many groups are worth it of any slice.
const GROUPS_ANYWAY: usize = 256;

/// Bytes of groups, for each row of the slice, that are worth it: states that grow with the rows
/// (all values of a median) would drive out everything else.
const BYTES_PER_ROW: usize = 2;
/// So many bytes are worth it of any slice.
const BYTES_ANYWAY: usize = 64 << 10;

/// What is asked of every slice.
#[derive(Debug)]
pub(super) struct Question {
    answers: Arc<Cache>,
    /// Groups, aggregates and conditions, but for bounds on time.
    identity: Identity,
    /// Earliest and latest time of the rows that are asked for.
    range: (i64, i64),
    /// Bins of time that are asked for as a whole.
    bins: Option<WholeBins>,
    /// Whether a group is the last of its rows.
    lasts: bool,
    costs: Arc<Costs>,
}

/// What one slice gave.
#[derive(Clone, Debug)]
pub(super) enum Answer {
    /// Its groups and the states of their aggregates.
    Groups(RecordBatch),
    /// So many groups that its rows are read again.
    TooMany,
    /// Not known, but a part of it was asked for before.
    Asked,
}

/// As it is remembered, with what it belongs to: a chance hit of the hash is noticed.
struct Kept {
    file: u64,
    slice: usize,
    question: Identity,
    answer: Answer,
}

impl Question {
    /// `None` if the same text may have another answer tomorrow.
    pub(super) fn of(grouping: &Grouping, shared: &Shared) -> Result<Option<Self>> {
        let (_, filters) = shared.filters.partition(|f| prune::time_bound(f).is_some());
        for expr in grouping.exprs().chain(filters.iter()) {
            if !is_settled(expr)? {
                return Ok(None);
            }
        }
        let mut text = String::new();
        let schema = shared.schema.project(&filters.columns())?;
        if write!(text, "{grouping:?} {filters:?} {schema:?}").is_err() {
            return Ok(None);
        }
        let exprs = grouping.exprs().chain(filters.iter());
        let Some(identity) = Identity::of(text, exprs)? else { return Ok(None) };
        // Rows that were not asked for must not make the query fail.
        let parts = [&grouping.labels, &grouping.rows, &grouping.arguments, &grouping.filters];
        let safe = parts.into_iter().flat_map(Exprs::iter).chain(filters.iter()).all(never_fails);
        let time = grouping.time.as_ref().filter(|_| safe);
        Ok(Some(Self {
            answers: shared.answers.clone(),
            identity,
            range: shared.range,
            bins: time.and_then(|time| time.whole_bins(shared.range)),
            lasts: safe && grouping.lasts().is_some(),
            costs: shared.costs.clone(),
        }))
    }

    /// The stretch of time (both ends inclusive) for which a slice has the same groups for all
    /// questions with this text: all of it, or that of whole bins. Where groups are last rows and
    /// none comes later, those that are too early are of entities without a row.
    pub(super) fn stretch(&self, file: &FilePlan, slice: usize) -> Option<(i64, i64)> {
        let times = file.entry.meta().slices[slice];
        if self.range.0 <= times.min_time && times.max_time <= self.range.1 {
            return Some((i64::MIN, i64::MAX));
        }
        if self.lasts && times.max_time <= self.range.1 {
            return Some((self.range.0, i64::MAX));
        }
        self.bins?.stretch((times.min_time, times.max_time))
    }

    /// Whether rows of a slice are asked for that are not in `stretch`.
    pub(super) fn has_more(&self, stretch: (i64, i64), file: &FilePlan, slice: usize) -> bool {
        let times = file.entry.meta().slices[slice];
        let (first, last) = (self.range.0.max(times.min_time), self.range.1.min(times.max_time));
        first <= last && (first < stretch.0 || stretch.1 < last)
    }

    /// Whether to read all of a slice takes at most about twice as long as what is asked for.
    pub(super) fn mostly(&self, file: &FilePlan, slice: usize) -> bool {
        if self.lasts {
            return true;
        }
        let times = file.entry.meta().slices[slice];
        let (first, last) = (self.range.0.max(times.min_time), self.range.1.min(times.max_time));
        last.saturating_sub(first) / 2 >= times.max_time.saturating_sub(times.min_time) / 4
    }

    /// What the slice gave before.
    pub(super) fn answer(&self, file: &FilePlan, slice: usize) -> Option<Answer> {
        let file = file.entry.id();
        let kept = self.answers.get::<Kept>(self.key(file, slice))?;
        let same = kept.file == file && kept.slice == slice && kept.question == self.identity;
        let answer = same.then(|| kept.answer.clone());
        if let Some(Answer::Groups(_)) = answer {
            self.costs.slice_known();
        }
        answer
    }

    /// Remembers that a part of the slice was asked for.
    pub(super) fn note(&self, file: &FilePlan, slice: usize) {
        self.insert(file, slice, Answer::Asked);
    }

    /// Remembers what the slice gave. `rows`: how many of it were grouped.
    pub(super) fn keep(&self, file: &FilePlan, slice: usize, rows: usize, groups: RecordBatch) {
        // Labels that are lost now may be there again later.
        if file.entry.entities().is_some_and(|set| !set.lost().is_empty()) {
            return;
        }
        let rows = if self.lasts { file.entry.meta().slices[slice].rows as usize } else { rows };
        let few = groups.num_rows() <= GROUPS_ANYWAY.max(rows / ROWS_PER_GROUP);
        let small = groups.get_array_memory_size() <= BYTES_ANYWAY.max(rows * BYTES_PER_ROW);
        let answer = if few && small { Answer::Groups(groups) } else { Answer::TooMany };
        self.insert(file, slice, answer);
    }

    fn insert(&self, file: &FilePlan, slice: usize, answer: Answer) {
        let bytes = match &answer {
            Answer::Groups(groups) => groups.get_array_memory_size(),
            Answer::TooMany | Answer::Asked => 0,
        };
        let file = file.entry.id();
        let kept = Kept { file, slice, question: self.identity.clone(), answer };
        // The question is counted each time though slices share it: who knows which goes last.
        let bytes = bytes + self.identity.bytes() + size_of::<Kept>();
        self.answers.insert(self.key(file, slice), Arc::new(kept), bytes);
    }

    fn key(&self, file: u64, slice: usize) -> u64 {
        self.identity.key((file, slice))
    }
}

/// Whether an expression has a value for every row.
fn never_fails(expr: &Arc<dyn PhysicalExpr>) -> bool {
    let plain = expr.downcast_ref::<Column>().is_some()
        || expr.downcast_ref::<Literal>().is_some()
        || expr.downcast_ref::<NotExpr>().is_some()
        || expr.downcast_ref::<IsNullExpr>().is_some()
        || expr.downcast_ref::<IsNotNullExpr>().is_some()
        || expr.downcast_ref::<InListExpr>().is_some()
        || expr.downcast_ref::<LikeExpr>().is_some()
        || expr.downcast_ref::<BinaryExpr>().is_some_and(|e| compares(*e.op()));
    plain && expr.children().into_iter().all(never_fails)
}

fn compares(op: Operator) -> bool {
    use Operator::{And, Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq, Or};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | And | Or | IsDistinctFrom | IsNotDistinctFrom)
}

/// Whether an expression is all that its text says.
fn is_settled(expr: &Arc<dyn PhysicalExpr>) -> Result<bool> {
    let mut hidden = is_volatile(expr);
    expr.apply(|e| {
        hidden |= e.downcast_ref::<DynamicFilterPhysicalExpr>().is_some();
        hidden |= e.downcast_ref::<ScalarSubqueryExpr>().is_some();
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(!hidden)
}
