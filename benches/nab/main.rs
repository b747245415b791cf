//! The `anomaly` operator on the Numenta Anomaly Benchmark, by its own scoring rules.
//!
//! `WEIR_NAB=/path/to/NAB cargo bench -p weir-operators --bench nab` prints the scores: of the best
//! threshold, as NAB publishes them, of the one that ships, and what each category gives. With
//! `WEIR_NAB_RESULTS=<detector>` it scores what that detector gave instead, from the folder
//! `results` of NAB: so the rules here can be compared with the scores published there. The corpus
//! is not part of Weir; without it nothing is printed but where it is.

#![allow(clippy::expect_used, clippy::print_stdout, clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a bench reads files and the environment")]

mod corpus;
mod score;

use std::path::Path;

use corpus::File;
use score::{Outcome, PROFILES, Point};

/// The threshold that ships.
const SHIPPED: f64 = 0.5;

fn main() {
    let Ok(folder) = std::env::var("WEIR_NAB") else {
        println!("set WEIR_NAB to a copy of https://github.com/numenta/NAB");
        return;
    };
    let folder = Path::new(&folder);
    let files = corpus::read(folder);
    let others = std::env::var("WEIR_NAB_RESULTS").ok();
    let scores: Vec<Vec<f64>> = files
        .iter()
        .map(|file| match &others {
            Some(detector) => corpus::published(folder, detector, file),
            None => corpus::scored(file),
        })
        .collect();
    let of = |keep: &dyn Fn(&File) -> bool| -> Vec<Point> {
        let mut first = 0;
        let mut points = Vec::new();
        for (file, scores) in files.iter().zip(&scores) {
            if keep(file) {
                points.extend(score::points(file, scores, first));
            }
            first += file.windows.len();
        }
        points
    };
    println!(
        "| profile | best threshold | score | hits | false | shipped threshold | hits | false |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for profile in PROFILES {
        let best = score::best(of(&|_| true), profile);
        let shipped = score::at(of(&|_| true), profile, SHIPPED);
        println!(
            "| {} | {:.4} | {:.2} | {} of {} | {} | {:.2} | {} | {} |",
            profile.name,
            best.threshold,
            best.normalized(profile),
            best.hits,
            best.windows,
            best.false_alarms,
            shipped.normalized(profile),
            shipped.hits,
            shipped.false_alarms,
        );
    }
    let standard = PROFILES[0];
    let all = score::best(of(&|_| true), standard);
    println!("\n| category | windows | points | hits | false | points, threshold of the others |");
    println!("|---|---|---|---|---|---|");
    let mut held_out = 0.0;
    let mut categories: Vec<&str> = files.iter().map(File::category).collect();
    categories.dedup();
    for category in categories {
        let own: Outcome = score::at(of(&|f| f.category() == category), standard, all.threshold);
        let others = score::best(of(&|f| f.category() != category), standard);
        let foreign = score::at(of(&|f| f.category() == category), standard, others.threshold);
        held_out += foreign.raw;
        println!(
            "| {category} | {} | {:.2} | {} | {} | {:.2} |",
            own.windows, own.raw, own.hits, own.false_alarms, foreign.raw,
        );
    }
    let held_out = Outcome { raw: held_out, ..all };
    println!(
        "\nEach category by the threshold of the others: {:.2}",
        held_out.normalized(standard)
    );
}
