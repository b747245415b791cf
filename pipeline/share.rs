//! The rows of one batch shared among the cores, for operators whose rows do not depend on each
//! other. What the parts gave goes together in the order of the rows, so that nothing that comes
//! after can tell whether they were shared, and how: the clock that decides it stays in here.

use std::ops::Range;
use std::panic::resume_unwind;
use std::thread::Builder;
use std::time::{Duration, Instant};

/// What a part takes at least: to start a thread and to wait for it takes some hundredths of that.
const PART: Duration = Duration::from_millis(1);

/// Threads that work on one batch at most.
const THREADS_MAX: usize = 16;

/// The share of the last batch in what a row is held to cost.
const NEWEST: f64 = 0.25;

/// What a program costs, learnt from batch to batch, and who can help.
#[derive(Debug)]
pub struct Pace {
    threads: usize,
    /// Of one core; 0 if not known yet.
    row_seconds: f64,
}

impl Default for Pace {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self { threads: cores.min(THREADS_MAX), row_seconds: 0.0 }
    }
}

impl Pace {
    /// A row is held to take a second, so that the first batch is shared whatever it costs.
    #[doc(hidden)]
    pub fn for_tests(threads: usize) -> Self {
        Self { threads, row_seconds: 1.0 }
    }

    /// What `work` gives for the rows `0..rows`, part by part in their order. A panic in one of them
    /// goes on here.
    pub fn share<T: Send>(
        &mut self,
        rows: usize,
        work: impl Fn(Range<usize>) -> T + Sync,
    ) -> Vec<T> {
        let worth = (rows as f64 * self.row_seconds / PART.as_secs_f64()) as usize;
        let parts = worth.min(self.threads).min(rows).max(1);
        let part = |i: usize| {
            let start = Instant::now();
            let given = work(rows * i / parts..rows * (i + 1) / parts);
            (given, start.elapsed())
        };
        let given = if parts == 1 { vec![part(0)] } else { together(parts, &part) };
        let took: Duration = given.iter().map(|(_, took)| *took).sum();
        if rows > 0 {
            let row = took.as_secs_f64() / rows as f64;
            self.row_seconds = if self.row_seconds == 0.0 {
                row
            } else {
                self.row_seconds + NEWEST * (row - self.row_seconds)
            };
        }
        given.into_iter().map(|(given, _)| given).collect()
    }
}

/// What `part` gives for `0..parts`, the first here and the others each on a thread.
fn together<T: Send>(parts: usize, part: &(impl Fn(usize) -> T + Sync)) -> Vec<T> {
    std::thread::scope(|scope| {
        let start = |i| {
            let builder = Builder::new().name("part of a batch".into());
            builder.spawn_scoped(scope, move || part(i)).ok()
        };
        let running: Vec<_> = (1..parts).map(start).collect();
        let mut given = vec![part(0)];
        for (i, thread) in (1..parts).zip(running) {
            given.push(match thread {
                Some(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
                // No thread was to be had.
                None => part(i),
            });
        }
        given
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_in_order_and_of_all_rows() {
        for (threads, rows) in [(1, 10), (3, 10), (16, 5), (4, 0)] {
            let mut pace = Pace::for_tests(threads);
            let parts = pace.share(rows, |part| part);
            assert_eq!(parts.len(), threads.min(rows).max(1));
            assert!(parts.into_iter().flatten().eq(0..rows));
        }
    }

    #[test]
    #[should_panic(expected = "row 7")]
    fn a_panic_goes_on() {
        Pace::for_tests(3).share(9, |part| assert!(!part.contains(&7), "row 7"));
    }
}
