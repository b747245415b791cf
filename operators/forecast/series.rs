//! One series: its bins, its limit, and what was found out about it.

use std::sync::Arc;

use weir_pipeline::entity::Entity;

use super::Settings;
use super::interval::WIDTHS_MAX;
use super::methods::SMOOTHED_MIN;
use super::select::{Model, VALUES_MIN};
use crate::codec::{get_entity, get_f64, get_u8, get_u64, put_entity, put_f64, put_u64};
use crate::series::SECOND;
use crate::series::bins::Bins;
use crate::series::known::{self, Identity};

/// Steps after which the method is chosen anew: so many, or this part of those known.
const ANEW_MIN: i64 = 12;
const ANEW_PART: usize = 8;

/// More of the steps than this part without points, and nothing is forecast.
const GAPS_PART: usize = 2;

/// What it costs to choose a method, in microseconds as measured: so much and for each step, with
/// those that take long and without, which are for few steps.
const CHOICE: (usize, usize) = (40_000, 50);
const CHOICE_OF_FEW: (usize, usize) = (200, 10);

/// The same for a forecast by the method chosen, which may be one that takes long.
const FIT: (usize, usize) = (2_000, 2);

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Series {
    pub(super) entity: Arc<Entity>,
    bins: Bins,
    time: i64,
    /// The last that a row gave.
    pub(super) limit: Option<f64>,
    /// Number of the last `every` for which a forecast was made.
    made: i64,
    /// Number of the bin at which the method was chosen, and for what question.
    chosen: i64,
    asked: u64,
    model: Option<Model>,
}

/// What is said of a series at one time.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Forecast {
    /// End of the last step that is known.
    pub(super) time: i64,
    pub(super) value: f64,
    /// Expected at the end of each step after it, and half the width of the interval.
    pub(super) ahead: Vec<f64>,
    pub(super) widths: Vec<f64>,
    pub(super) limit: Option<f64>,
    pub(super) crosses: Crosses,
    pub(super) model: Model,
    /// Steps that it is based on.
    pub(super) steps: usize,
}

/// When a limit is reached, seconds from the time of the forecast.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Crosses {
    pub(super) expected: Option<f64>,
    /// By the bound of the interval that is nearer to the limit, and by the other.
    pub(super) earliest: Option<f64>,
    pub(super) latest: Option<f64>,
}

impl Series {
    pub(super) fn add(&mut self, settings: &Settings, time: i64, value: f64) {
        self.time = self.time.max(time);
        self.bins.add(settings.step, settings.bins, time, value);
    }

    /// The number of the `every` for which a forecast is due, if one is.
    pub(super) fn due(&self, settings: &Settings) -> Option<i64> {
        let number = self.bins.newest()?.saturating_mul(settings.step).div_euclid(settings.every);
        (number > self.made && self.bins.closed() >= VALUES_MIN).then_some(number)
    }

    /// About what the forecast that is due costs, in microseconds.
    pub(super) fn cost(&self, settings: &Settings) -> usize {
        let steps = self.bins.closed();
        let (once, each) = match self.stale(settings) {
            true if steps < SMOOTHED_MIN => CHOICE_OF_FEW,
            true => CHOICE,
            false => FIT,
        };
        once + each * steps
    }

    /// Whether the method is to be chosen anew.
    fn stale(&self, settings: &Settings) -> bool {
        let since = self.bins.newest().unwrap_or_default().saturating_sub(self.chosen);
        let other = self.model.is_none() || self.asked != settings.question();
        other || since >= ANEW_MIN.max((self.bins.closed() / ANEW_PART) as i64)
    }

    /// The forecast that is due, as number `number`.
    pub(super) fn forecast(&mut self, settings: &Settings, number: i64) -> Option<Forecast> {
        self.made = number;
        let newest = self.bins.newest()?;
        let y = whole(self.bins.means(), self.bins.mean(newest))?;
        let periods = settings.periods(y.len());
        if self.stale(settings) {
            (self.chosen, self.asked) = (newest, settings.question());
            self.model = Model::select(&y, &periods, settings.horizon, settings.level);
        }
        let model = self.model.clone()?;
        let ahead = model.forecast(&y, &periods, settings.horizon)?;
        let ahead: Vec<f64> = ahead.into_iter().map(|v| settings.possible(v)).collect();
        let widths: Vec<f64> = (1..=ahead.len()).map(|h| model.width(h)).collect();
        let value = *y.last()?;
        let crosses = self.limit.map(|limit| {
            let above = settings.above;
            let path = |sign: f64| {
                let each = ahead.iter().zip(&widths).map(|(a, w)| settings.possible(a + sign * w));
                crossing(value, each, limit, above)
                    .map(|steps| steps * settings.step as f64 / SECOND as f64)
            };
            let towards = if above { 1.0 } else { -1.0 };
            Crosses { expected: path(0.0), earliest: path(towards), latest: path(-towards) }
        });
        let time = newest.saturating_mul(settings.step);
        let (limit, crosses, steps) = (self.limit, crosses.unwrap_or_default(), y.len());
        Some(Forecast { time, value, ahead, widths, limit, crosses, model, steps })
    }
}

/// After how many steps a path that starts at `value` reaches the limit, between two of them in
/// proportion; 0 if it is beyond already.
fn crossing(value: f64, path: impl Iterator<Item = f64>, limit: f64, above: bool) -> Option<f64> {
    let beyond = |v: f64| if above { v >= limit } else { v <= limit };
    if beyond(value) {
        return Some(0.0);
    }
    let mut before = value;
    for (at, next) in path.enumerate() {
        if beyond(next) {
            let part = (limit - before) / (next - before);
            return Some(at as f64 + part.clamp(0.0, 1.0));
        }
        before = next;
    }
    None
}

/// The values with gaps filled in proportion, one at the end towards what comes `next`; `None` if too
/// many are missing.
fn whole(mut y: Vec<f64>, next: Option<f64>) -> Option<Vec<f64>> {
    let missing = y.iter().filter(|v| v.is_nan()).count();
    if y.is_empty() || missing * GAPS_PART > y.len() {
        return None;
    }
    y.extend(next);
    let mut known = 0;
    for at in 0..y.len() {
        if y[at].is_nan() {
            continue;
        }
        let (from, to) = (y[known], y[at]);
        for (gap, value) in y[known..at].iter_mut().enumerate().skip(1) {
            *value = from + (to - from) * gap as f64 / (at - known) as f64;
        }
        known = at;
    }
    y.truncate(y.len() - usize::from(next.is_some()));
    Some(y)
}

impl known::Series for Series {
    const SAVED_MIN: usize = 64;

    fn new(identity: &Identity<'_>) -> Self {
        Self {
            entity: identity.entity(),
            bins: Bins::new(identity),
            time: i64::MIN,
            limit: None,
            made: i64::MIN,
            chosen: i64::MIN,
            asked: 0,
            model: None,
        }
    }

    fn time(&self) -> i64 {
        self.time
    }

    fn put(&self, out: &mut Vec<u8>) {
        put_entity(out, &self.entity);
        self.bins.put(out);
        [self.time, self.made, self.chosen].iter().for_each(|n| put_u64(out, *n as u64));
        put_u64(out, self.asked);
        put_f64(out, self.limit.unwrap_or(f64::NAN));
        out.push(u8::from(self.model.is_some()));
        let Some(model) = &self.model else { return };
        out.push(model.methods.len() as u8);
        out.extend(&model.methods);
        out.push(model.widths.len() as u8);
        model.widths.iter().for_each(|w| put_f64(out, *w));
        put_u64(out, model.tried as u64);
        let rest = [model.growth, model.mase, model.smape, model.coverage];
        rest.iter().for_each(|n| put_f64(out, *n));
    }

    fn get(bytes: &mut &[u8]) -> Option<Self> {
        let entity = Arc::new(get_entity(bytes)?);
        let bins = Bins::get(bytes)?;
        let [time, made, chosen] = [(); 3].map(|()| get_u64(bytes).map(|n| n as i64));
        let asked = get_u64(bytes)?;
        let limit = Some(get_f64(bytes)?).filter(|l| !l.is_nan());
        let mut series = Self {
            entity,
            bins,
            time: time?,
            limit,
            made: made?,
            chosen: chosen?,
            asked,
            model: None,
        };
        if get_u8(bytes)? == 0 {
            return Some(series);
        }
        let mut model = Model::default();
        for _ in 0..get_u8(bytes)? {
            model.methods.push(get_u8(bytes)?);
        }
        let widths = usize::from(get_u8(bytes)?);
        if widths > WIDTHS_MAX {
            return None;
        }
        for _ in 0..widths {
            model.widths.push(get_f64(bytes)?);
        }
        model.tried = usize::try_from(get_u64(bytes)?).ok()?;
        model.growth = get_f64(bytes)?;
        model.mase = get_f64(bytes)?;
        model.smape = get_f64(bytes)?;
        model.coverage = get_f64(bytes)?;
        series.model = Some(model);
        Some(series)
    }
}
