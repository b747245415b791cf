//! A pipeline is a function of the journal: random pipelines over random entries give the same
//! rows, late rows, errors, tables, alerts and states, run straight or with batches joined at
//! random, checkpoints, swaps, deaths and recoveries in between.
//!
//! `WEIR_DETERMINISM_SEED=N` runs one case and prints its pipeline file, `WEIR_DETERMINISM_CASES=N`
//! runs that many.

mod inputs;
mod pipelines;
pub(crate) mod random;
mod run;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use random::Random;
use run::{Case, Observed};

/// Cases that `make test` runs.
const CASES: u64 = 40;

#[test]
fn interruptions_and_cuts_change_nothing() {
    let number = |name: &str| std::env::var(name).ok().map(|n| n.parse::<u64>().expect(name));
    if let Some(seed) = number("WEIR_DETERMINISM_SEED") {
        eprintln!("{}", Case::new(seed).text);
        eprintln!("{:?}", check(seed));
        return;
    }
    let cases = number("WEIR_DETERMINISM_CASES").unwrap_or(CASES);
    let next = AtomicU64::new(0);
    let work = || {
        let mut totals = Totals::default();
        loop {
            let seed = next.fetch_add(1, Relaxed);
            if seed >= cases {
                return totals;
            }
            match catch_unwind(AssertUnwindSafe(|| check(seed))) {
                Ok(found) => totals.add(&found),
                Err(_) => panic!("WEIR_DETERMINISM_SEED={seed} replays this case"),
            }
        }
    };
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    let totals = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().fold(Totals::default(), |mut all, worker| {
            all.add(&worker.join().expect("a case failed; its seed is above"));
            all
        })
    });
    eprintln!("{cases} cases: {totals:?}");
    // Each of what is compared has to occur, or this test proves less than it says.
    let Totals { rows, late, errors, transitions, checkpoints, swaps, deaths, files } = totals;
    let all = [rows, late, errors, transitions, checkpoints, swaps, deaths, files];
    assert!(all.iter().all(|n| *n >= cases / 4), "{totals:?}");
}

/// How much was compared and interrupted.
#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    rows: u64,
    late: u64,
    errors: u64,
    transitions: u64,
    checkpoints: u64,
    swaps: u64,
    deaths: u64,
    files: u64,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.rows += other.rows;
        self.late += other.late;
        self.errors += other.errors;
        self.transitions += other.transitions;
        self.checkpoints += other.checkpoints;
        self.swaps += other.swaps;
        self.deaths += other.deaths;
        self.files += other.files;
    }
}

fn check(seed: u64) -> Totals {
    let case = Case::new(seed);
    let straight = run::straight(&case);
    let (cut, mut totals) = run::interrupted(&case, &mut Random::new(!seed), &straight.edges);
    let Observed { edges, tables, states } = straight;
    for (name, rows) in &edges {
        let count = rows.len() as u64;
        totals.rows += count;
        if name.ends_with(".late") {
            totals.late += count;
        } else if name.ends_with(".errors") {
            totals.errors += count;
        } else if name.starts_with("alert") {
            totals.transitions += count;
        }
    }
    same(&case, "rows", &edges, &cut.edges);
    same(&case, "table", &tables, &cut.tables);
    same(&case, "state", &states, &cut.states);
    totals
}

/// Fails at the first line that differs.
fn same(case: &Case, what: &str, straight: &Lines, cut: &Lines) {
    let names = |of: &Lines| of.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(straight), names(cut), "{what}\n{}", case.text);
    for (name, expected) in straight {
        let found = &cut[name];
        let length = expected.len().max(found.len());
        let Some(at) = (0..length).find(|i| expected.get(*i) != found.get(*i)) else { continue };
        panic!(
            "{what} {name}: line {at} of {} and {}\nstraight: {:?}\n     cut: {:?}\n{}",
            expected.len(),
            found.len(),
            expected.get(at),
            found.get(at),
            case.text
        );
    }
}

/// Lines of text by what they are of.
type Lines = BTreeMap<String, Vec<String>>;
