//! What is usual of series together, and how far a step is from it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use smartcore::decomposition::pca::{PCA, PCAParameters};
use smartcore::linalg::basic::arrays::Array;
use smartcore::linalg::basic::matrix::DenseMatrix;

use crate::codec::{get_f64, get_u64, put_f64, put_u64};
use crate::series::robust::median;

/// Steps that the components are of, in quarters of all; the others say what misfit is usual.
const QUARTERS: usize = 3;

/// Share of the variance that the components hold.
const HELD: f64 = 0.9;

/// Values count as at most so many deviations from the median: an incident that is learned from
/// must not be a component of its own.
const FAR: f64 = 8.0;

/// The misfit that is usual is the largest but this share.
const RARE: f64 = 0.01;

/// The score is one half at this many times the usual misfit.
const BEYOND: f64 = 1.5;

/// Steps that components are of for each series: of fewer they follow chance.
const ROWS_MIN: usize = 4;

/// A series that always fits is this many deviations away all the same.
const AWAY_MIN: f64 = 0.01;

/// What makes the median absolute deviation of normal values their standard deviation.
const DEVIATION: f64 = 1.482_602_218_505_602;

/// Of one series.
#[derive(Clone, Debug, PartialEq)]
struct Usual {
    middle: f64,
    deviation: f64,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    usual: Vec<Usual>,
    /// Components, each with a number of each series.
    components: Vec<Vec<f64>>,
    /// How far each series usually is outside of them, in its deviations.
    away: Vec<f64>,
    /// What is usual of how many times as far they are: the root of the sum of squares of all, and
    /// the largest. The sum sees many that fit a little less, and hides one among many.
    misfit: f64,
    worst: f64,
}

/// How a step fits.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Fit {
    pub(super) score: f64,
    /// Share of each series in the misfit.
    pub(super) shares: Vec<f64>,
    /// What would fit.
    pub(super) expected: Vec<f64>,
}

impl Usual {
    fn of(values: &[f64]) -> Option<Self> {
        let mut known: Vec<f64> = values.iter().copied().filter(|v| !v.is_nan()).collect();
        let middle = median(&mut known);
        known.iter_mut().for_each(|v| *v = (*v - middle).abs());
        let mut deviation = DEVIATION * median(&mut known);
        if deviation <= 0.0 {
            // It is mostly the same: what is not is all that there is.
            let squares: f64 = known.iter().map(|v| v * v).sum();
            deviation = (squares / known.len().max(1) as f64).sqrt();
        }
        (deviation.is_finite() && deviation > middle.abs() * 1e-9 && deviation > 0.0)
            .then_some(Self { middle, deviation })
    }

    /// In deviations from the middle; a gap is as usual.
    fn scaled(&self, value: f64) -> f64 {
        if value.is_nan() { 0.0 } else { ((value - self.middle) / self.deviation).clamp(-FAR, FAR) }
    }
}

/// Which of series vary.
pub(super) fn varies(values: &[f64]) -> bool {
    Usual::of(values).is_some()
}

impl Model {
    /// Of the values of series, step by step; NaN where there is none. `None` if the library fails.
    pub(super) fn fit(series: &[Vec<f64>]) -> Option<Self> {
        let usual = series.iter().map(|values| Usual::of(values)).collect::<Option<Vec<_>>>()?;
        let (width, steps) = (series.len(), series.first()?.len());
        let row = |step: usize| -> Vec<f64> {
            usual.iter().zip(series).map(|(u, values)| u.scaled(values[step])).collect()
        };
        let learned = steps * QUARTERS / 4;
        if width < 2 || learned < ROWS_MIN * width {
            return None;
        }
        let mut rows: Vec<Vec<f64>> = (0..steps).map(row).collect();
        let others = rows.split_off(learned);
        let components = components(&rows)?;
        let mut model = Self { usual, components, away: vec![1.0; width], misfit: 0.0, worst: 0.0 };
        let rests: Vec<Vec<f64>> = others.iter().map(|row| model.rest(row)).collect();
        model.away = (0..width)
            .map(|s| {
                let mut away: Vec<f64> = rests.iter().map(|rest| rest[s].abs()).collect();
                (DEVIATION * median(&mut away)).max(AWAY_MIN)
            })
            .collect();
        let times: Vec<Vec<f64>> = rests.iter().map(|rest| model.times(rest)).collect();
        model.misfit = all_but_rare(times.iter().map(|t| length(t)).collect())?;
        model.worst = all_but_rare(times.iter().map(|t| largest(t)).collect())?;
        Some(model)
    }

    /// Series that it is of.
    pub(super) fn width(&self) -> usize {
        self.usual.len()
    }

    /// What of a row is not in the space of the components.
    fn rest(&self, row: &[f64]) -> Vec<f64> {
        let mut rest = row.to_vec();
        for component in &self.components {
            let along: f64 = row.iter().zip(component).map(|(v, c)| v * c).sum();
            rest.iter_mut().zip(component).for_each(|(r, c)| *r -= along * c);
        }
        rest
    }

    /// How the values of a step fit.
    pub(super) fn judge(&self, values: &[f64]) -> Fit {
        let row: Vec<f64> = self.usual.iter().zip(values).map(|(u, v)| u.scaled(*v)).collect();
        let rest = self.rest(&row);
        let times = self.times(&rest);
        let squares: f64 = times.iter().map(|t| t * t).sum();
        let of_all = squares.sqrt() / self.misfit.max(1.0);
        let of_one = largest(&times) / self.worst.max(1.0);
        let ratio = (of_all.max(of_one) / BEYOND).powi(4);
        let share = |r: &f64| if squares > 0.0 { r * r / squares } else { 0.0 };
        let fits = self.usual.iter().zip(row.iter().zip(&rest));
        Fit {
            score: ratio / (1.0 + ratio),
            shares: times.iter().map(share).collect(),
            expected: fits.map(|(u, (v, r))| u.middle + u.deviation * (v - r)).collect(),
        }
    }

    /// How many times as far as usual each series is.
    fn times(&self, rest: &[f64]) -> Vec<f64> {
        rest.iter().zip(&self.away).map(|(r, away)| r / away).collect()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_u64(out, self.usual.len() as u64);
        put_u64(out, self.components.len() as u64);
        for usual in &self.usual {
            put_f64(out, usual.middle);
            put_f64(out, usual.deviation);
        }
        self.components.iter().flatten().for_each(|c| put_f64(out, *c));
        self.away.iter().for_each(|a| put_f64(out, *a));
        put_f64(out, self.misfit);
        put_f64(out, self.worst);
    }

    /// The inverse of [`Model::put`].
    pub(super) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let (width, components) = (get_u64(bytes)?, get_u64(bytes)?);
        let mut model = Self::default();
        for _ in 0..width {
            model.usual.push(Usual { middle: get_f64(bytes)?, deviation: get_f64(bytes)? });
        }
        for _ in 0..components {
            let each = (0..width).map(|_| get_f64(bytes));
            model.components.push(each.collect::<Option<_>>()?);
        }
        model.away = (0..width).map(|_| get_f64(bytes)).collect::<Option<_>>()?;
        model.misfit = get_f64(bytes)?;
        model.worst = get_f64(bytes)?;
        Some(model)
    }
}

/// What all but [`RARE`] of the values do not exceed; `None` of none.
fn all_but_rare(mut values: Vec<f64>) -> Option<f64> {
    values.sort_unstable_by(f64::total_cmp);
    let rare = (values.len() as f64 * RARE).ceil() as usize;
    values.iter().rev().nth(rare.saturating_sub(1)).copied()
}

fn largest(row: &[f64]) -> f64 {
    row.iter().fold(0.0, |most, v| v.abs().max(most))
}

fn length(row: &[f64]) -> f64 {
    row.iter().map(|v| v * v).sum::<f64>().sqrt()
}

/// The first components of rows, as many as hold [`HELD`] of the variance.
fn components(rows: &[Vec<f64>]) -> Option<Vec<Vec<f64>>> {
    let width = rows.first()?.len();
    let fitted = catch_unwind(AssertUnwindSafe(|| {
        let matrix = DenseMatrix::from_2d_vec(&rows.to_vec()).ok()?;
        PCA::fit(&matrix, PCAParameters::default().with_n_components(width)).ok()
    }));
    let fitted = fitted.ok().flatten()?;
    let found = fitted.components();
    let mut all: Vec<(f64, Vec<f64>)> = (0..width)
        .map(|c| {
            let component: Vec<f64> = (0..width).map(|s| *found.get((s, c))).collect();
            let along = rows.iter().map(|row| row.iter().zip(&component).map(|(v, c)| v * c).sum());
            let squares = along.map(|v: f64| v * v).sum();
            (squares, component)
        })
        .collect();
    all.sort_by(|a, b| b.0.total_cmp(&a.0));
    let total: f64 = all.iter().map(|(squares, _)| squares).sum();
    if !total.is_finite() || total <= 0.0 {
        return None;
    }
    let mut held = 0.0;
    let mut kept = Vec::new();
    for (squares, component) in all {
        // One direction at least stays outside, or nothing could not fit.
        if held >= HELD * total || kept.len() + 1 == width {
            break;
        }
        held += squares;
        kept.push(component);
    }
    Some(kept)
}
