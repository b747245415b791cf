//! What operators cost, in time on a core, which others that run meanwhile do not change.
//! `cargo bench -p weir-operators` writes `docs/benchmarks-operators.md`; nothing is asserted about
//! time. `-- log_pattern` prints that part alone.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a bench reads the clock")]

mod anomaly;
mod enrich;
mod labels;
mod log_pattern;
mod rollup;
mod series;
mod span_metrics;
mod vrl;
mod window;

use std::path::Path;
use std::time::Duration;

use weir_pipeline::component::Operator;
use weir_pipeline::config::{Input, Scope, Section};
use weir_pipeline::edge::Edge;
use weir_pipeline::signal::Signal;

/// How long each way runs.
const TIME: Duration = Duration::from_secs(1);

/// A part of the page: its name, and what makes it.
type Part = (&'static str, fn() -> String);

fn main() {
    let all: [Part; 9] = [
        ("window", window::page),
        ("rollup", rollup::page),
        ("labels", labels::page),
        ("vrl", vrl::page),
        ("enrich", enrich::page),
        ("anomaly", anomaly::page),
        ("changepoint", anomaly::changepoint),
        ("log_pattern", log_pattern::page),
        ("span_metrics", span_metrics::page),
    ];
    // Cargo adds `--bench`.
    let asked: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if asked.iter().any(|a| a == "loghub") {
        let folder = std::env::var_os("WEIR_LOGHUB").expect("WEIR_LOGHUB is not set");
        return print!("{}", log_pattern::loghub(Path::new(&folder)));
    }
    let wanted = all.iter().filter(|(name, _)| asked.is_empty() || asked.iter().any(|a| a == name));
    let parts: Vec<String> = wanted.map(|(_, page)| page()).collect();
    if !asked.is_empty() {
        return print!("{}", parts.join("\n"));
    }
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let page = format!(
        "# Benchmarks: operators\n\nWritten by `make bench`, on a core of {}.\n\n{}",
        model.trim_matches([' ', '\t', ':']),
        parts.join("\n")
    );
    print!("{page}");
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    std::fs::write(docs.join("benchmarks-operators.md"), page).unwrap();
}

/// An operator of one input.
fn built(kind: &str, signal: Signal, section: &str) -> Box<dyn Operator> {
    let kind = weir_operators::ALL.iter().find(|k| k.name == kind).unwrap();
    let section = Section::parse_for_tests("t", section);
    let input = Input { name: "in".into(), edge: Edge::open(signal) };
    (kind.plan)(&section, &Scope::new(vec![input], ".".into())).unwrap().build()
}

/// Rows per second of a core, where `once` does `rows`.
fn timed(rows: usize, mut once: impl FnMut()) -> f64 {
    once();
    let (start, mut done) = (on_core(), 0);
    while on_core() - start < TIME {
        once();
        done += rows;
    }
    done as f64 / (on_core() - start).as_secs_f64()
}

/// How long this process has run on cores, all its threads together.
fn on_core() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    // After the name: state is the first, utime and stime the twelfth and thirteenth.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}

/// As Linux shows them to all programs.
const TICKS_PER_SECOND: u64 = 100;

/// Rows per second as people read it.
fn short(rate: f64) -> String {
    if rate < 1e6 { format!("{:.0} k", rate / 1e3) } else { format!("{:.1} M", rate / 1e6) }
}
