//! Which method a series gets, and how far off it is: by forecasts made from places in the past,
//! whose end is known (rolling-origin evaluation, Tashman 2000).

use super::interval::{GROWTH, growth, weight, widths};
use super::methods::{METHODS, Method};

/// Values without which nothing is forecast.
pub(crate) const VALUES_MIN: usize = 12;

/// Places in the past from which the methods are tried. Methods that take milliseconds are tried
/// from every third of them, and are told from the others there.
const ORIGINS_MAX: usize = 24;
const COSTLY_EVERY: usize = 3;

/// The first of them has this part of all values behind it.
const BEHIND: usize = 2;

/// Forecasts are tried over no more than this part of all values.
const AHEAD: usize = 4;

/// From the last origin this part of what is tried lies ahead.
const NEAR: usize = 8;

/// Methods of which pairs are tried too: the mean of two is often better than either.
const PAIRED: usize = 3;

/// A pair must be better than its better one by this factor: it costs twice as much.
const PAIR_GAIN: f64 = 0.99;

/// A method that takes milliseconds must be better by this factor.
const COSTLY_GAIN: f64 = 0.98;

/// Errors are told apart down to this part of the mean difference of a value and the next.
const FLOOR: f64 = 1e-3;

/// What was found out about a series.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Model {
    /// Places in [`METHODS`]: one, or two of which the mean counts.
    pub(crate) methods: Vec<u8>,
    /// Half the width of the interval 1, 2, 4, ... steps ahead.
    pub(crate) widths: Vec<f64>,
    /// Steps ahead that were tried.
    pub(crate) tried: usize,
    /// Power by which the width grows behind them.
    pub(crate) growth: f64,
    /// Mean error against that of the seasonal naive method in the values themselves (MASE).
    pub(crate) mase: f64,
    /// Symmetric mean error in percent (sMAPE).
    pub(crate) smape: f64,
    /// Share of the values tried that lay in the interval which the other origins give.
    pub(crate) coverage: f64,
}

/// Errors of one method, by origin: forecast less value.
struct Tried {
    method: u8,
    ahead: Vec<Option<Vec<f64>>>,
}

impl Tried {
    /// Mean absolute error over these origins; infinite if one is missing.
    fn error(&self, truth: &[&[f64]], origins: &[usize], floor: f64) -> f64 {
        error(|o| self.ahead[o].as_deref(), truth, origins, floor)
    }
}

/// Weighted geometric mean over origins of the mean absolute error, each at least `floor`: from some origins
/// nothing can be foretold, a shift of the level say, and what is least wrong there would decide in
/// a plain mean.
fn error<'a>(
    ahead: impl Fn(usize) -> Option<&'a [f64]>,
    truth: &[&[f64]],
    origins: &[usize],
    floor: f64,
) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for &o in origins {
        let Some(ahead) = ahead(o) else { return f64::INFINITY };
        let weight = weight(o, truth.len());
        sum += weight * off(ahead, truth[o]).max(floor).ln();
        weights += weight;
    }
    (sum / weights).exp()
}

/// Mean absolute error.
fn off(ahead: &[f64], truth: &[f64]) -> f64 {
    ahead.iter().zip(truth).map(|(f, t)| (f - t).abs()).sum::<f64>() / truth.len() as f64
}

impl Model {
    /// The best method for `y`, which has no gaps and seasons of these periods, `steps` ahead, with
    /// intervals that hold the share `level`. `None` if there is too little.
    pub(crate) fn select(y: &[f64], periods: &[usize], steps: usize, level: f64) -> Option<Self> {
        let n = y.len();
        if n < VALUES_MIN || steps == 0 {
            return None;
        }
        let tried = steps.min(n / AHEAD).max(1);
        let origins = origins(n, tried);
        let truth: Vec<&[f64]> = origins.iter().map(|&o| &y[o..(o + tried).min(n)]).collect();
        let all: Vec<usize> = (0..origins.len()).collect();
        let few: Vec<usize> = all.iter().copied().rev().step_by(COSTLY_EVERY).collect();
        let at = |method: u8, o: usize| {
            METHODS[usize::from(method)].forecast(&y[..origins[o]], periods, tried)
        };
        let floor = FLOOR * steps_of(y) + f64::MIN_POSITIVE;
        let mut candidates: Vec<Tried> = Vec::new();
        for method in 0..METHODS.len() as u8 {
            let costly = METHODS[usize::from(method)].costly();
            let mut ahead = vec![None; origins.len()];
            let mut whole = true;
            for &o in if costly { &few } else { &all } {
                ahead[o] = at(method, o);
                whole &= ahead[o].is_some();
                if !whole {
                    break;
                }
            }
            if whole {
                candidates.push(Tried { method, ahead });
            }
        }
        let score = |t: &Tried| {
            let own = t.error(&truth, &few, floor);
            if METHODS[usize::from(t.method)].costly() { own / COSTLY_GAIN } else { own }
        };
        candidates.sort_by(|a, b| score(a).total_cmp(&score(b)));
        candidates.truncate(PAIRED);
        let methods = best(&candidates, &truth, &few, floor, score);
        // The chosen one from all origins from which it has an answer: there may be too few values.
        let (ahead, truth): (Vec<Vec<f64>>, Vec<&[f64]>) = all
            .iter()
            .filter_map(|&o| {
                let each = methods.iter().map(|m| {
                    let known = candidates.iter().find(|c| c.method == *m);
                    known.and_then(|c| c.ahead[o].clone()).or_else(|| at(*m, o))
                });
                let each = each.collect::<Option<Vec<_>>>()?;
                Some((mean(each)?, truth[o]))
            })
            .unzip();
        if ahead.is_empty() {
            return None;
        }
        let trends = methods.iter().any(|m| METHODS[usize::from(*m)].trends());
        let mut model = Self { methods, tried, ..Self::default() };
        let reach = origins[origins.len() - 1] - origins[0];
        model.measure(&ahead, &truth, (reach, level), trends);
        model.mase = model.mase(y, periods, &ahead, &truth);
        Some(model)
    }

    /// Widths, and what they hold.
    fn measure(
        &mut self,
        ahead: &[Vec<f64>],
        truth: &[&[f64]],
        (reach, level): (usize, f64),
        trends: bool,
    ) {
        let errors: Vec<Vec<f64>> = ahead
            .iter()
            .zip(truth)
            .map(|(a, t)| a.iter().zip(*t).map(|(a, t)| (a - t).abs()).collect())
            .collect();
        let chosen: Vec<&[f64]> = errors.iter().map(Vec::as_slice).collect();
        let of_all = vec![true; chosen.len()];
        self.widths = widths(&chosen, &of_all, reach, self.tried, level);
        self.growth = if trends { GROWTH.1 } else { growth(&self.widths, self.tried) };
        let (mut held, mut count) = (0, 0);
        for (left_out, errors) in chosen.iter().enumerate() {
            let others: Vec<bool> = (0..chosen.len()).map(|o| o != left_out).collect();
            let widths = widths(&chosen, &others, reach, self.tried, level);
            let model = Self { widths, growth: self.growth, tried: self.tried, ..Self::default() };
            held += errors.iter().zip(1..).filter(|(e, h)| **e <= model.width(*h)).count();
            count += errors.len();
        }
        self.coverage = if chosen.len() > 1 { held as f64 / count as f64 } else { f64::NAN };
        let parts = ahead.iter().zip(truth).flat_map(|(a, t)| a.iter().zip(*t));
        let parts = parts.map(|(a, t)| match a.abs() + t.abs() {
            0.0 => 0.0,
            sum => 200.0 * (a - t).abs() / sum,
        });
        self.smape = parts.sum::<f64>() / count as f64;
    }

    fn mase(&self, y: &[f64], periods: &[usize], ahead: &[Vec<f64>], truth: &[&[f64]]) -> f64 {
        let season = periods.first().copied().filter(|p| y.len() > *p).unwrap_or(1);
        let naive: f64 = y.iter().zip(&y[season..]).map(|(a, b)| (a - b).abs()).sum();
        let naive = naive / (y.len() - season) as f64;
        let sum: f64 = ahead.iter().zip(truth).map(|(a, t)| off(a, t)).sum();
        sum / truth.len() as f64 / naive
    }

    /// The next `steps` values.
    pub(crate) fn forecast(&self, y: &[f64], periods: &[usize], steps: usize) -> Option<Vec<f64>> {
        let each =
            self.methods.iter().map(|m| METHODS.get(usize::from(*m))?.forecast(y, periods, steps));
        mean(each.flatten().collect())
    }

    /// Half the width of the interval `h` steps ahead.
    pub(crate) fn width(&self, h: usize) -> f64 {
        let Some(&last) = self.widths.last() else { return f64::NAN };
        if h >= self.tried {
            return last * (h as f64 / self.tried as f64).powf(self.growth);
        }
        let place = (h.max(1) as f64).log2();
        let below = place as usize;
        let (Some(&low), Some(&high)) = (self.widths.get(below), self.widths.get(below + 1)) else {
            return last;
        };
        let (from, to) = (1 << below, (1usize << (below + 1)).min(self.tried));
        low + (high - low) * (h - from) as f64 / (to - from).max(1) as f64
    }

    /// As users read it.
    pub(crate) fn name(&self) -> String {
        let names = self.methods.iter().filter_map(|m| METHODS.get(usize::from(*m)));
        let mut names: Vec<&str> = names.map(|m| Method::name(*m)).collect();
        names.dedup();
        names.join("+")
    }
}

/// Mean difference of a value and the next.
fn steps_of(y: &[f64]) -> f64 {
    let sum: f64 = y.iter().zip(&y[1..]).map(|(a, b)| (a - b).abs()).sum();
    sum / y.len() as f64
}

/// Ends of what is known at each origin, older ones first. From the newest ones only the near
/// future is known: but they know how the series is now.
fn origins(n: usize, tried: usize) -> Vec<usize> {
    let last = n - (tried / NEAR).max(1);
    let first = (n / BEHIND).min(last).max(VALUES_MIN / BEHIND);
    let count = ORIGINS_MAX.min(last - first + 1);
    let span = last - first;
    (0..count).map(|o| if count > 1 { first + span * o / (count - 1) } else { last }).collect()
}

/// The best candidate, or pair of them. They are in order.
fn best(
    candidates: &[Tried],
    truth: &[&[f64]],
    few: &[usize],
    floor: f64,
    score: impl Fn(&Tried) -> f64,
) -> Vec<u8> {
    let Some(first) = candidates.first() else { return Vec::new() };
    let (mut least, mut methods) = (score(first) * PAIR_GAIN, vec![first.method]);
    for (i, a) in candidates.iter().enumerate() {
        for b in &candidates[i + 1..] {
            let both = |o: usize| {
                mean([&a.ahead[o], &b.ahead[o]].into_iter().flatten().cloned().collect())
            };
            let means: Vec<Option<Vec<f64>>> = (0..truth.len()).map(both).collect();
            let error = error(|o| means[o].as_deref(), truth, few, floor);
            if error < least {
                (least, methods) = (error, vec![a.method, b.method]);
            }
        }
    }
    methods
}

/// The mean of forecasts, value by value; `None` of none.
fn mean(all: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let count = all.len() as f64;
    let mut all = all.into_iter();
    let mut sum = all.next()?;
    for other in all {
        sum.iter_mut().zip(&other).for_each(|(s, o)| *s += o);
    }
    sum.iter_mut().for_each(|s| *s /= count);
    Some(sum)
}
