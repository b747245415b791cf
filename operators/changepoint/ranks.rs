//! Where ranks say that a series changed.
//!
//! The Mann-Whitney statistic at every split of a window, the largest of which is taken (Pettitt
//! 1979; for streams Hawkins and Deng 2010, Ross, Tasoulis and Adams 2011). Ranks see how many
//! values lie higher, not how high: a spike is one of them. Values of a series that follow each
//! other are alike, so that a few of them say as much as one; the deviation of the statistic grows
//! by that (Bayley and Hammersley 1946, for an autoregressive process).

/// Autocorrelation is reckoned with up to this.
const ALIKE_MAX: f64 = 0.97;

/// The best place to split a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Split {
    /// Values before it.
    pub(super) at: usize,
    /// Deviations by which the ranks before and after differ.
    pub(super) z: f64,
    /// Without autocorrelation, which costs time: no less.
    pub(super) z_most: f64,
}

/// Room that is used again.
#[derive(Debug, Default)]
pub(super) struct Ranks {
    order: Vec<(f64, u32)>,
    ranks: Vec<f64>,
}

impl Ranks {
    /// The best split of `values` with at least `before` and `after` of them on its sides, if it
    /// reaches `least`. No value is NaN.
    pub(super) fn split(
        &mut self,
        values: &[f64],
        before: usize,
        after: usize,
        least: f64,
    ) -> Option<Split> {
        let n = values.len();
        if n < before + after {
            return None;
        }
        let ties = self.rank(values);
        let total = n as f64;
        // Half the variance of ranks, less what those do not vary that are the same.
        let varies = (total + 1.0 - ties / (total * (total - 1.0))) / 12.0;
        if varies <= 0.0 {
            return None;
        }
        let (mut sum, mut best) = (0.0, Split { at: 0, z: 0.0, z_most: 0.0 });
        for at in 1..=n - after {
            sum += self.ranks[at - 1] - (total + 1.0) / 2.0;
            if at < before {
                continue;
            }
            let sizes = at as f64 * (n - at) as f64;
            let z = sum.abs() / (sizes * varies).sqrt();
            if z > best.z_most {
                best = Split { at, z, z_most: z };
            }
        }
        if best.z_most < least {
            return None;
        }
        let alike = self.alike(best.at);
        best.z = best.z_most / ((1.0 + alike) / (1.0 - alike)).sqrt();
        (best.z >= least).then_some(best)
    }

    /// Ranks, the mean of them for values that are the same; the sum of t^3 - t over such.
    fn rank(&mut self, values: &[f64]) -> f64 {
        self.order.clear();
        self.order.extend(values.iter().copied().zip(0..));
        self.order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        self.ranks.clear();
        self.ranks.resize(values.len(), 0.0);
        let (mut ties, mut from) = (0.0, 0);
        while from < self.order.len() {
            let same = self.order[from..].iter().take_while(|(v, _)| *v == self.order[from].0);
            let count = same.count().max(1);
            let rank = from as f64 + (count as f64 + 1.0) / 2.0;
            for (_, place) in &self.order[from..from + count] {
                self.ranks[*place as usize] = rank;
            }
            let t = count as f64;
            ties += t * t * t - t;
            from += count;
        }
        ties
    }

    /// Autocorrelation of the ranks at a distance of one, on both sides of a split by themselves and
    /// without a line through them, corrected for what is lost with these (Kendall 1954).
    fn alike(&self, at: usize) -> f64 {
        let (mut products, mut squares) = (0.0, 0.0);
        for side in [&self.ranks[..at], &self.ranks[at..]] {
            let mean = side.iter().sum::<f64>() / side.len() as f64;
            let middle = (side.len() as f64 - 1.0) / 2.0;
            let (mut along, mut length) = (0.0, 0.0);
            for (i, rank) in side.iter().enumerate() {
                let place = i as f64 - middle;
                along += place * (rank - mean);
                length += place * place;
            }
            let line = if length > 0.0 { along / length } else { 0.0 };
            let off = |i: usize| side[i] - mean - line * (i as f64 - middle);
            squares += (0..side.len()).map(|i| off(i) * off(i)).sum::<f64>();
            products += (1..side.len()).map(|i| off(i - 1) * off(i)).sum::<f64>();
        }
        let found = if squares > 0.0 { products / squares } else { 0.0 };
        let corrected = found + 2.0 * (1.0 + 2.0 * found) / self.ranks.len() as f64;
        if found > 0.0 { corrected.clamp(0.0, ALIKE_MAX) } else { 0.0 }
    }
}

/// Deviations by which evenly spaced values rise or fall (Mann 1945, Kendall 1975).
pub(super) fn rises(values: &[f64]) -> f64 {
    let n = values.len() as f64;
    let pairs = (0..values.len()).flat_map(|i| values[i + 1..].iter().map(move |later| (i, later)));
    let sum: f64 = pairs.map(|(i, later)| f64::from(later.total_cmp(&values[i]) as i8)).sum();
    let deviation = (n * (n - 1.0) * (2.0 * n + 5.0) / 18.0).sqrt();
    if deviation > 0.0 { sum / deviation } else { 0.0 }
}

/// The chance that the largest statistic of `splits` of noise is so large, at most.
pub(super) fn chance(z: f64, splits: usize) -> f64 {
    // The tail of the normal distribution, from above.
    let tail = (-z * z / 2.0).exp() / (z.max(1.0) * (2.0 * std::f64::consts::PI).sqrt());
    (2.0 * tail * splits as f64).min(1.0)
}
