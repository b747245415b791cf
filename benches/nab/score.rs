//! The rules of NAB (`nab/sweeper.py`, `config/profiles.json`): a window counts once, by its earliest
//! alarm, the more the earlier; every alarm outside costs, less the closer it follows a window; the
//! first 15 % of a file, at most 750 rows, do not count.

use std::collections::BTreeMap;

use super::corpus::File;

/// What hits, misses and false alarms weigh.
#[derive(Clone, Copy)]
pub(super) struct Profile {
    pub(super) name: &'static str,
    hit: f64,
    miss: f64,
    false_alarm: f64,
}

pub(super) const PROFILES: [Profile; 3] = [
    Profile { name: "standard", hit: 1.0, miss: 1.0, false_alarm: 0.11 },
    Profile { name: "low false positives", hit: 1.0, miss: 1.0, false_alarm: 0.22 },
    Profile { name: "low false negatives", hit: 1.0, miss: 2.0, false_alarm: 0.11 },
];

/// A row that counts.
pub(super) struct Point {
    score: f64,
    /// What an alarm there gives, before weights.
    gain: f64,
    window: Option<usize>,
}

/// What alarms at a threshold give.
#[derive(Clone, Copy)]
pub(super) struct Outcome {
    pub(super) raw: f64,
    pub(super) threshold: f64,
    pub(super) windows: usize,
    pub(super) hits: usize,
    pub(super) false_alarms: usize,
}

impl Outcome {
    /// From 0, for no alarm at all, to 100.
    pub(super) fn normalized(&self, profile: Profile) -> f64 {
        let windows = self.windows as f64;
        100.0 * (self.raw + windows * profile.miss) / (windows * (profile.hit + profile.miss))
    }
}

fn sigmoid(position: f64) -> f64 {
    if position > 3.0 { -1.0 } else { 2.0 / (1.0 + (5.0 * position).exp()) - 1.0 }
}

/// The rows of a file that count; its windows are numbered from `first`.
pub(super) fn points(file: &File, scores: &[f64], first: usize) -> Vec<Point> {
    let probation = ((0.15 * file.rows() as f64).floor() as usize).min(750);
    let (mut next, mut current, mut past) = (0, None, None);
    let mut points = Vec::new();
    for (row, score) in scores.iter().enumerate() {
        if current.is_none() && file.windows.get(next).is_some_and(|w| w.0 == row) {
            current = Some(next);
            next += 1;
        }
        let gain = match (current.map(|w| file.windows[w]), past) {
            (Some((start, end)), _) => {
                let position = -((end - row + 1) as f64) / (end - start + 1) as f64;
                sigmoid(position) / sigmoid(-1.0)
            }
            (None, Some((end, width))) => sigmoid((row - end) as f64 / (width - 1.0)),
            (None, None) => -1.0,
        };
        if row >= probation {
            points.push(Point { score: *score, gain, window: current.map(|w| first + w) });
        }
        if let Some(window) = current
            && file.windows[window].1 == row
        {
            past = Some((row, (row - file.windows[window].0 + 1) as f64));
            current = None;
        }
    }
    points
}

/// The outcome at every threshold, from the highest down.
fn sweep(mut points: Vec<Point>, profile: Profile, mut seen: impl FnMut(Outcome)) {
    points.sort_by(|a, b| b.score.total_cmp(&a.score));
    let mut windows: BTreeMap<usize, f64> =
        points.iter().filter_map(|p| p.window).map(|w| (w, -profile.miss)).collect();
    let raw = -(windows.len() as f64) * profile.miss;
    let mut now =
        Outcome { raw, threshold: f64::INFINITY, windows: windows.len(), hits: 0, false_alarms: 0 };
    seen(now);
    for alike in points.chunk_by(|a, b| a.score == b.score) {
        for point in alike {
            let Some(window) = point.window.and_then(|w| windows.get_mut(&w)) else {
                now.raw += point.gain * profile.false_alarm;
                now.false_alarms += 1;
                continue;
            };
            now.hits += usize::from(*window == -profile.miss);
            let gain = window.max(point.gain * profile.hit);
            now.raw += gain - *window;
            *window = gain;
        }
        now.threshold = alike[0].score;
        seen(now);
    }
}

/// The best of all thresholds, as NAB publishes it.
pub(super) fn best(points: Vec<Point>, profile: Profile) -> Outcome {
    let mut best: Option<Outcome> = None;
    sweep(points, profile, |now| {
        if best.is_none_or(|b| now.raw > b.raw) {
            best = Some(now);
        }
    });
    best.unwrap()
}

/// With alarms at `threshold` and above.
pub(super) fn at(points: Vec<Point>, profile: Profile, threshold: f64) -> Outcome {
    let mut last: Option<Outcome> = None;
    sweep(points, profile, |now| {
        if now.threshold >= threshold {
            last = Some(now);
        }
    });
    last.unwrap()
}
