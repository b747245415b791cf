//! One batch of an operator without state, shared among the cores: rows are independent of each
//! other, and parts go on in the order in which they were cut, as if the journal had cut them.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::batch::Batch;
use crate::component::{Operator, OperatorError, OperatorPlan, Output};

/// What a part takes at least: to start a thread and to wait for it takes some hundredths of that.
const PART: Duration = Duration::from_millis(1);

/// Threads that work on one batch at most.
const THREADS_MAX: usize = 16;

/// The share of the last batch in what a row is held to cost.
const NEWEST: f64 = 0.25;

/// Operators like that of a node, and what its rows cost.
pub(super) struct Team {
    plan: Arc<dyn OperatorPlan>,
    others: Vec<Box<dyn Operator>>,
    threads: usize,
    /// Seconds.
    row: f64,
}

impl Team {
    /// `None` for an operator that has state: its rows depend on those before.
    pub(super) fn new(plan: &Arc<dyn OperatorPlan>) -> Option<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = cores.min(THREADS_MAX);
        let alone = plan.state_shape().is_none() && threads > 1;
        alone.then(|| Self { plan: plan.clone(), others: Vec::new(), threads, row: 0.0 })
    }

    /// As [`Operator::process`] of `operator`.
    pub(super) fn process(
        &mut self,
        operator: &mut dyn Operator,
        input: usize,
        batch: Batch,
        out: &mut Output,
    ) -> Result<(), OperatorError> {
        let rows = batch.num_rows();
        let worth = (rows as f64 * self.row / PART.as_secs_f64()) as usize;
        let parts = worth.min(self.threads).min(rows).max(1);
        if parts > 1
            && let Some((together, took)) = self.shared(operator, input, &batch, parts, out.now)
        {
            self.learn(rows, took);
            *out = together;
            return Ok(());
        }
        let start = Instant::now();
        let result = operator.process(input, batch, out);
        self.learn(rows, start.elapsed());
        result
    }

    fn learn(&mut self, rows: usize, took: Duration) {
        let row = took.as_secs_f64() / rows.max(1) as f64;
        self.row = if self.row == 0.0 { row } else { self.row + NEWEST * (row - self.row) };
    }

    /// What all parts gave and took together; `None` if one failed: then the whole batch is for
    /// the operator alone, which fails on it as it would have without others.
    fn shared(
        &mut self,
        operator: &mut dyn Operator,
        input: usize,
        batch: &Batch,
        parts: usize,
        now: i64,
    ) -> Option<(Output, Duration)> {
        while self.others.len() + 1 < parts {
            self.others.push(self.plan.build());
        }
        let rows = batch.num_rows();
        let cut = |part: usize| rows * part / parts;
        let part = |i: usize| batch.slice(cut(i), cut(i + 1) - cut(i));
        let given = std::thread::scope(|scope| {
            let mut running = Vec::with_capacity(parts);
            for (i, other) in self.others.iter_mut().take(parts - 1).enumerate() {
                let batch = part(i + 1);
                let work = move || one(other.as_mut(), input, batch, now);
                let thread = std::thread::Builder::new().name("part of a batch".into());
                running.push(thread.spawn_scoped(scope, work).ok()?);
            }
            let mut given = vec![one(operator, input, part(0), now)?];
            for thread in running {
                given.push(thread.join().ok()??);
            }
            Some(given)
        });
        let Some(given) = given else {
            // What a failure left of them is not known.
            self.others.clear();
            return None;
        };
        let mut all = Output { now, ..Output::default() };
        let mut total = Duration::ZERO;
        for (out, took) in given {
            all.emitted.extend(out.emitted);
            all.rejected.extend(out.rejected);
            all.dropped += out.dropped;
            total += took;
        }
        Some((all, total))
    }
}

/// What an operator gives for a batch, and how long it takes; `None` if it fails.
fn one(
    operator: &mut dyn Operator,
    input: usize,
    batch: Batch,
    now: i64,
) -> Option<(Output, Duration)> {
    let start = Instant::now();
    let mut out = Output { now, ..Output::default() };
    let work = AssertUnwindSafe(|| operator.process(input, batch, &mut out));
    catch_unwind(work).ok()?.ok()?;
    Some((out, start.elapsed()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
    use arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use proptest::prelude::*;

    use super::*;
    use crate::batch::Run;
    use crate::component::{OutputPlan, Tick};
    use crate::signal::Signal;

    /// Emits even numbers, rejects odd ones, drops what divides by five, fails on 13.
    #[derive(Debug)]
    struct Sieve;

    impl OperatorPlan for Sieve {
        fn outputs(&self) -> Vec<OutputPlan> {
            Vec::new()
        }
        fn columns(&self) -> Vec<String> {
            Vec::new()
        }
        fn state_shape(&self) -> Option<String> {
            None
        }
        fn reach(&self) -> i64 {
            0
        }
        fn build(&self) -> Box<dyn Operator> {
            Box::new(Sieve)
        }
    }

    impl Operator for Sieve {
        fn process(
            &mut self,
            _input: usize,
            batch: Batch,
            out: &mut Output,
        ) -> Result<(), OperatorError> {
            let of = |keep: fn(i64) -> bool| {
                let mask: BooleanArray = numbers(&batch).map(|n| Some(keep(n))).collect();
                batch.filter(&mask).unwrap()
            };
            assert!(numbers(&batch).all(|n| n != -13), "a bug of the operator");
            if numbers(&batch).any(|n| n == 13) {
                return Err(OperatorError::new("thirteen"));
            }
            out.dropped += numbers(&batch).filter(|n| n % 5 == 0).count() as u64;
            out.emit(of(|n| n % 5 != 0 && n % 2 == 0));
            let odd = of(|n| n % 5 != 0 && n % 2 != 0);
            let errors = numbers(&odd).map(|n| OperatorError::new(n.to_string())).collect();
            out.reject(odd, errors);
            Ok(())
        }
        fn tick(&mut self, _tick: Tick, _out: &mut Output) -> Result<(), OperatorError> {
            Ok(())
        }
        fn watermark(&self, inputs: i64) -> i64 {
            inputs
        }
        fn snapshot(&mut self) -> Result<Vec<u8>, OperatorError> {
            Ok(Vec::new())
        }
        fn restore(&mut self, _state: &[u8]) -> Result<(), OperatorError> {
            Ok(())
        }
        fn flush(&mut self, _tick: Tick, _out: &mut Output) -> Result<(), OperatorError> {
            Ok(())
        }
    }

    fn numbers(batch: &Batch) -> impl Iterator<Item = i64> {
        let array = batch.array("n").unwrap();
        (0..array.len()).map(move |i| array.as_primitive::<Int64Type>().value(i))
    }

    fn batch(numbers: &[i64], first: usize) -> Batch {
        let schema = Schema::new(vec![Field::new("n", DataType::Int64, true)]);
        let column = Arc::new(Int64Array::from(numbers.to_vec()));
        let rows = RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap();
        let run = |offset, rows| Run { offset, received: 0, source: "test".into(), rows };
        let first = first.min(numbers.len());
        let runs = [run(1, first), run(2, numbers.len() - first)];
        let runs: Vec<Run> = runs.into_iter().filter(|r| r.rows > 0).collect();
        Batch::new(Signal::Logs, "default".into(), rows, None, runs.into()).unwrap()
    }

    /// Numbers with their journal offsets that went each way.
    fn ways(out: &Output) -> [Vec<(i64, u64)>; 2] {
        let of = |batch: &Batch| {
            let runs = batch.runs().iter().flat_map(|r| std::iter::repeat_n(r.offset, r.rows));
            numbers(batch).zip(runs.collect::<Vec<_>>()).collect::<Vec<_>>()
        };
        let rejected = out.rejected.iter().map(|(batch, errors)| {
            assert!(
                numbers(batch).map(|n| n.to_string()).eq(errors.iter().map(|e| e.reason.clone()))
            );
            of(batch)
        });
        [out.emitted.iter().flat_map(|(_, b)| of(b)).collect(), rejected.flatten().collect()]
    }

    proptest! {
        #[test]
        fn parts_are_the_whole(
            values in proptest::collection::vec(prop_oneof![9 => 0..12_i64, 1 => -14..15_i64], 1..60),
            first in 0..60_usize,
            threads in 2..6_usize,
        ) {
            let plan: Arc<dyn OperatorPlan> = Arc::new(Sieve);
            // Each row is held to take as long as a part must.
            let row = PART.as_secs_f64();
            let mut team = Team { plan, others: Vec::new(), threads, row };
            let batch = batch(&values, first);
            let (mut alone, mut shared) = (Output::default(), Output::default());
            let of = |work: &mut dyn FnMut() -> Result<(), OperatorError>| {
                catch_unwind(AssertUnwindSafe(work)).map_err(drop).map(|r| r.map_err(|e| e.reason))
            };
            let expect = of(&mut || Sieve.process(0, batch.clone(), &mut alone));
            let got = of(&mut || team.process(&mut Sieve, 0, batch.clone(), &mut shared));
            prop_assert_eq!(&got, &expect);
            if got == Ok(Ok(())) {
                prop_assert_eq!(ways(&shared), ways(&alone));
                prop_assert_eq!(shared.dropped, alone.dropped);
                prop_assert_eq!(team.others.len(), threads.min(values.len()) - 1);
            } else {
                prop_assert!(shared.emitted.is_empty() && team.others.is_empty());
            }
        }
    }
}
