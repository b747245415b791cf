//! Means that forget, and the memory of how far a series has strayed.

use crate::codec::{get_f32, put_f32};

/// An exponentially weighted mean. It starts as the plain mean of what came, so that the first
/// points do not weigh more than later ones.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Mean(pub(super) f64);

impl Mean {
    /// What it becomes with `value` as point number `n` (from 1), at the rate `a`.
    pub(super) fn with(self, value: f64, a: f64, n: f64) -> Self {
        Self(self.0 + a.max(1.0 / n) * (value - self.0))
    }
}

/// How far one kind of deviation of a series has gone: the root of the sum of 8th powers of what was
/// seen, forgetting slowly, and the mean.
///
/// By Markov's inequality the chance of a deviation `f` is at most `E[F^8] / f^8`, so `(f /
/// extreme)^8` bounds from below how many points it takes until one so far out comes. Of one large
/// value it is that value; of `k` equal ones it is larger by `k^(1/8)`: what comes often must be
/// exceeded clearly, what came once need not. No scale, no distribution and no unit is assumed.
///
/// Where the tail is light, as that of a normal distribution, the largest of a few hundred are no
/// extremes yet: there the mean is what tells them.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Extreme {
    root: f32,
    mean: f32,
}

/// Ratios beyond which the past adds nothing to the sum of 8th powers; keeps them finite.
const RATIO_MAX: f64 = 1e4;

/// The mean forgets this many times as fast as the sum, but no faster than [`MEAN_RATE`].
const MEAN_FASTER: f64 = 4.0;
const MEAN_RATE: f64 = 1e-3;

impl Extreme {
    /// The deviation that is as far out as what was seen, at least `usual` times the mean.
    pub(super) fn get(self, usual: f64) -> f64 {
        f64::from(self.root).max(usual * f64::from(self.mean))
    }

    /// Takes in a deviation, having forgotten the share `loss` of the sum of 8th powers.
    pub(super) fn learn(&mut self, deviation: f64, loss: f64) {
        let deviation = deviation.min(f64::from(f32::MAX));
        let now = f64::from(self.root);
        let ratio = deviation / now;
        let next = if now <= 0.0 || ratio > RATIO_MAX {
            deviation
        } else {
            now * eighth_root(1.0 - loss + eighth_power(ratio))
        };
        self.root = next.min(f64::from(f32::MAX)) as f32;
        let mean = f64::from(self.mean);
        self.mean = (mean + (loss * MEAN_FASTER).max(MEAN_RATE) * (deviation - mean)) as f32;
    }

    pub(super) fn put(self, out: &mut Vec<u8>) {
        put_f32(out, self.root);
        put_f32(out, self.mean);
    }

    pub(super) fn get_from(bytes: &mut &[u8]) -> Option<Self> {
        Some(Self { root: get_f32(bytes)?, mean: get_f32(bytes)? })
    }
}

fn eighth_power(x: f64) -> f64 {
    let x2 = x * x;
    let x4 = x2 * x2;
    x4 * x4
}

fn eighth_root(x: f64) -> f64 {
    x.sqrt().sqrt().sqrt()
}
