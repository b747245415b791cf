//! How far off forecasts are: from the errors of those that were tried.

/// Widths are kept for 1, 2, 4, ... steps ahead.
pub(crate) const WIDTHS_MAX: usize = 16;

/// By which powers of the time ahead a width grows beyond what was tried.
pub(crate) const GROWTH: (f64, f64) = (0.25, 1.0);

/// What an origin says counts half as much as what one says that is this part of all later.
const FADE_PART: f64 = 3.0;

/// Widths of forecasts whose times overlap are of fewer than it seems: with so few that do not,
/// they are wider by this part of one more than there are. About what Student's distribution says.
const FEW: f64 = 0.4;

/// The weight of origin `o` of `count`, older ones first.
pub(crate) fn weight(o: usize, count: usize) -> f64 {
    0.5_f64.powf((count - 1 - o) as f64 * FADE_PART / count as f64)
}

/// Half widths 1, 2, 4, ... steps ahead, and `tried`: the errors between one and the next of the
/// origins that count, of which the share `level` is less, newer ones weighing more (conformal
/// prediction beyond exchangeability, Barber et al. 2023), corrected for how few there are. They do
/// not shrink with the time ahead. `reach` are the steps between the first and the last origin.
pub(crate) fn widths(
    errors: &[&[f64]],
    counts: &[bool],
    reach: usize,
    tried: usize,
    level: f64,
) -> Vec<f64> {
    let all = errors.len();
    let used = || (0..all).filter(|o| counts[*o]);
    let share = (level * (1.0 + 1.0 / used().count().max(1) as f64)).min(1.0);
    let mut widths = Vec::new();
    let (mut from, mut widest) = (0, 0.0_f64);
    for node in 0..WIDTHS_MAX {
        let to = (1usize << node).min(tried);
        let mut near: Vec<(f64, f64)> = used()
            .flat_map(|o| {
                let known = errors[o].len();
                let part = &errors[o][from.min(known)..to.min(known)];
                part.iter().map(move |e| (*e, weight(o, all)))
            })
            .collect();
        near.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        widest = widest.max(quantile(&near, share));
        widths.push(widest);
        if to == tried {
            break;
        }
        from = to;
    }
    // Of how many times that do not overlap what is known is.
    for (node, width) in widths.iter_mut().enumerate() {
        let apart = reach as f64 / (1usize << node).min(tried) as f64;
        *width *= 1.0 + FEW / (1.0 + apart);
    }
    widths
}

/// The least value that this share of the weight does not exceed.
fn quantile(sorted: &[(f64, f64)], share: f64) -> f64 {
    let all: f64 = sorted.iter().map(|(_, weight)| weight).sum();
    let mut sum = 0.0;
    for (value, weight) in sorted {
        sum += weight;
        // Sums of parts are not exact.
        if sum >= share * all * (1.0 - 1e-12) {
            return *value;
        }
    }
    sorted.last().map_or(0.0, |(value, _)| *value)
}

/// How widths grew over what was tried.
pub(crate) fn growth(widths: &[f64], tried: usize) -> f64 {
    let [.., before, last] = widths else { return 0.5 };
    let steps = tried as f64 / (1u64 << (widths.len() - 2)) as f64;
    let power = (last / before).ln() / steps.ln();
    if power.is_finite() { power.clamp(GROWTH.0, GROWTH.1) } else { 0.5 }
}
