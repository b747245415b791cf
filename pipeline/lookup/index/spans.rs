//! Which of several rows holds at a time. Rows may overlap, lie within others and end before those
//! that began earlier; so what holds is worked out once, as steps of time, and a question is one
//! binary search however many rows there are.

use std::collections::BinaryHeap;

/// The rows that hold, cell by cell.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// Where the steps of each cell end; they begin where those of the cell before end.
    ends: Vec<u32>,
    steps: Vec<Step>,
}

/// From when on which row holds, until the next step of the cell.
#[derive(Debug)]
struct Step {
    from: i64,
    row: Option<u32>,
}

impl Spans {
    /// Adds the next cell: `rows` of a table, each of which holds from its time in `since` until
    /// before its time in `until`. The one that began last is found, of equal ones the later row.
    pub(super) fn add(&mut self, rows: &[u32], since: &[i64], until: Option<&[i64]>) {
        let ends = |row: u32| until.map_or(i64::MAX, |until| until[row as usize]);
        let mut begin: Vec<(i64, u32)> = rows.iter().map(|r| (since[*r as usize], *r)).collect();
        begin.sort_unstable();
        let mut times: Vec<i64> = begin.iter().map(|(time, _)| *time).collect();
        if until.is_some() {
            times.extend(rows.iter().map(|row| ends(*row)));
        }
        times.sort_unstable();
        times.dedup();
        let mut begin = begin.into_iter().peekable();
        // Those that have begun, on top the one that began last. One below the top that has ended
        // meanwhile goes when it comes up.
        let mut begun: BinaryHeap<(i64, u32)> = BinaryHeap::new();
        let mut last = None;
        for time in times {
            while let Some(row) = begin.next_if(|(from, _)| *from <= time) {
                begun.push(row);
            }
            // What has no end holds at the end of time too.
            let over = |row: u32| until.is_some() && ends(row) <= time;
            while begun.peek().is_some_and(|(_, row)| over(*row)) {
                begun.pop();
            }
            let row = begun.peek().map(|(_, row)| *row);
            if row != last {
                self.steps.push(Step { from: time, row });
                last = row;
            }
        }
        self.ends.push(self.steps.len() as u32);
    }

    /// The row of a cell that holds at `time`.
    pub(super) fn at(&self, cell: u32, time: i64) -> Option<u32> {
        let cell = cell as usize;
        let start = cell.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        let steps = &self.steps[start..*self.ends.get(cell)? as usize];
        let next = steps.partition_point(|step| step.from <= time);
        steps[..next].last()?.row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The row that is found at each of the times 0, 1, ..., `-` where there is none.
    #[track_caller]
    fn check(rows: &[(i64, i64)], expected: &str) {
        let since: Vec<i64> = rows.iter().map(|r| r.0).collect();
        let until: Vec<i64> = rows.iter().map(|r| r.1).collect();
        let all: Vec<u32> = (0..rows.len() as u32).collect();
        let mut spans = Spans::default();
        // Another cell before it.
        spans.add(&[0], &[0], None);
        spans.add(&all, &since, Some(&until));
        let at = |time| spans.at(1, time).map_or("-".to_owned(), |row| row.to_string());
        let found: String = (0..expected.len() as i64).map(at).collect();
        assert_eq!(found, expected);
        assert!(spans.steps.len() <= 2 * rows.len() + 1, "{spans:?}");
    }

    #[test]
    fn the_latest_start_wins() {
        check(&[(1, 3), (3, 5)], "-0011-");
        // Within another, and what is below comes up again.
        check(&[(0, 9), (2, 7), (4, 5)], "001121100");
        // One that ends while it is covered does not come up.
        check(&[(0, 4), (2, 6)], "001111-");
        check(&[(0, 2), (1, 8), (3, 4)], "011211");
        // Of equal starts the later row, of equal spans too.
        check(&[(1, 9), (1, 3), (1, 3)], "-2200");
        // Nothing holds within a span that ends before it begins.
        check(&[(3, 1), (5, 5), (6, 7)], "------2");
    }

    #[test]
    fn what_has_no_end_holds_for_ever() {
        let mut spans = Spans::default();
        spans.add(&[0, 1], &[i64::MIN, 5], None);
        let found = [i64::MIN, 4, 5, i64::MAX].map(|time| spans.at(0, time));
        assert_eq!(found, [Some(0), Some(0), Some(1), Some(1)]);
        assert_eq!(spans.at(1, 5), None);
    }
}
