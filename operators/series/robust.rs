//! Statistics that a few wild values do not move.

/// Pairs that the slope of a short series is the median of; longer ones are halved, see [`slope`].
const ALL_PAIRS_MAX: usize = 48;

/// The median; values are put in another order. NaN of none.
pub(crate) fn median(values: &mut [f64]) -> f64 {
    let middle = values.len() / 2;
    if values.is_empty() {
        return f64::NAN;
    }
    let odd = values.len() % 2 == 1;
    let (below, upper, _) = values.select_nth_unstable_by(middle, f64::total_cmp);
    let upper = *upper;
    if odd {
        return upper;
    }
    let lower = below.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    lower / 2.0 + upper / 2.0
}

/// The slope per step of evenly spaced values: the median of the slopes of all pairs (Theil 1950,
/// Sen 1968), of many values of the pairs that are half of them apart (Theil's incomplete method),
/// which takes O(n). It bears 29 % of wild values.
pub(crate) fn slope(y: &[f64]) -> f64 {
    let n = y.len();
    if n < 2 {
        return 0.0;
    }
    let mut slopes: Vec<f64> = if n <= ALL_PAIRS_MAX {
        let pairs = (0..n).flat_map(|i| (i + 1..n).map(move |j| (i, j)));
        pairs.map(|(i, j)| (y[j] - y[i]) / (j - i) as f64).collect()
    } else {
        let half = n / 2;
        (0..n - half).map(|i| (y[i + half] - y[i]) / half as f64).collect()
    };
    median(&mut slopes)
}
