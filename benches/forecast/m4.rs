//! The 414 hourly series of the M4 competition: 48 hours ahead, intervals of 95 %.

use std::path::Path;

use crate::{Said, forecast, mean, median};

const SECTION: &str = "step = \"1h\"\nhistory = \"60d\"\nhorizon = \"48h\"\nevery = \"1h\"\nlevel = 0.95\npoints = 48";
const DAY: usize = 24;
const ALPHA: f64 = 0.05;

/// sMAPE and MASE of the method Naive 2 on these series, by which the OWA is relative.
const NAIVE2: (f64, f64) = (18.383, 2.395);

fn read(path: &Path) -> Vec<Vec<f64>> {
    let text = std::fs::read_to_string(path).unwrap();
    let cells = |line: &str| {
        line.split(',').skip(1).filter_map(|c| c.trim_matches('"').parse().ok()).collect()
    };
    text.lines().skip(1).map(cells).collect()
}

struct Score {
    smape: f64,
    mase: f64,
    msis: f64,
    held: f64,
    said: Said,
}

fn score(past: &[f64], future: &[f64]) -> Score {
    let said = forecast(SECTION, 3_600, past);
    let [ahead, low, high] =
        ["forecast.value", "forecast.low", "forecast.high"].map(|n| said.column(n));
    let scale = mean(past.iter().zip(&past[DAY..]).map(|(a, b)| (a - b).abs()));
    let pairs = || ahead.iter().zip(future);
    let bounds = || low.iter().zip(&high).zip(future);
    let missed = |((l, h), v): ((&f64, &f64), &f64)| (l - v).max(v - h).max(0.0);
    Score {
        smape: mean(pairs().map(|(a, b)| 200.0 * (a - b).abs() / (a.abs() + b.abs()))),
        mase: mean(pairs().map(|(a, b)| (a - b).abs())) / scale,
        msis: mean(bounds().map(|b| b.0.1 - b.0.0 + 2.0 / ALPHA * missed(b))) / scale,
        held: mean(bounds().map(|b| f64::from(missed(b) == 0.0))),
        said,
    }
}

pub(super) fn print(folder: &Path) {
    let past = read(&folder.join("Train/Hourly-train.csv"));
    let future = read(&folder.join("Test/Hourly-test.csv"));
    let scores: Vec<Score> = past.iter().zip(&future).map(|(p, f)| score(p, f)).collect();
    let of = |value: fn(&Score) -> f64| mean(scores.iter().map(value));
    let (smape, mase) = (of(|s| s.smape), of(|s| s.mase));
    let owa = (smape / NAIVE2.0 + mase / NAIVE2.1) / 2.0;
    println!("\n| M4 hourly | sMAPE | MASE | OWA | MSIS | in 95 % interval | said before | time |");
    println!("|---|---|---|---|---|---|---|---|");
    println!(
        "| {} series | {smape:.2} | {mase:.3} | {owa:.3} | {:.2} | {:.1} % | {:.1} % | {:.0} ms |",
        scores.len(),
        of(|s| s.msis),
        100.0 * of(|s| s.held),
        100.0 * of(|s| s.said.column("forecast.coverage")[0]),
        median(scores.iter().map(|s| s.said.time.as_secs_f64() * 1e3).collect()),
    );
}
