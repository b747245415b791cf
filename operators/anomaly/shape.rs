//! Prototypes of the states that a series was in: distance to the nearest one is novelty.
//!
//! Online leader clustering (Hartigan 1975) with a bounded number of leaders: a point within the
//! radius of a leader moves it a little, one outside founds a new leader in place of the one that
//! was longest without a point, and the radius follows so that the leaders suffice.

use crate::codec::{get_f32, get_u8, put_f32};

/// Leaders of one series: beyond 10 scores hardly change, and each costs 16 bytes.
const LEADERS_MAX: usize = 10;

/// How far a leader moves towards a point of its own.
const MOVE: f32 = 0.05;

/// The radius grows by this factor when a leader is lost, and shrinks by the other on any point
/// that has a leader: some 200 points undo one loss.
const GROW: f32 = 1.1;
const SHRINK: f32 = 0.9995;

/// Least radius that grows, in mean absolute deviations of the series.
const RADIUS_MIN: f32 = 1e-3;

/// A state of a series: level, change and point, in its own mean absolute deviations.
pub(super) type Point = [f32; 3];

/// Heap bytes of the leaders of one series.
#[cfg(test)]
pub(super) const HELD: usize = LEADERS_MAX * size_of::<Leader>();

#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Leader {
    at: Point,
    /// Number of the last point that it took.
    used: u32,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Shapes {
    leaders: Vec<Leader>,
    radius: f32,
}

/// The leader nearest to a point.
#[derive(Clone, Copy)]
pub(super) struct Nearest {
    leader: usize,
    pub(super) distance: f32,
}

impl Shapes {
    pub(super) fn nearest(&self, point: &Point) -> Option<Nearest> {
        let mut best: Option<Nearest> = None;
        for (leader, known) in self.leaders.iter().enumerate() {
            let [a, b, c] = [0, 1, 2].map(|i| point[i] - known.at[i]);
            let distance = a * a + b * b + c * c;
            if best.is_none_or(|b| distance < b.distance) {
                best = Some(Nearest { leader, distance });
            }
        }
        best.map(|b| Nearest { distance: b.distance.sqrt(), ..b })
    }

    /// Takes in point number `n`.
    pub(super) fn learn(&mut self, point: &Point, nearest: Option<Nearest>, n: u32) {
        match nearest {
            Some(near) if near.distance <= self.radius => {
                let leader = &mut self.leaders[near.leader];
                leader.used = n;
                for (at, to) in leader.at.iter_mut().zip(point) {
                    *at += MOVE * (to - *at);
                }
                self.radius *= SHRINK;
            }
            _ if self.leaders.len() < LEADERS_MAX => {
                self.leaders.reserve_exact(LEADERS_MAX - self.leaders.len());
                self.leaders.push(Leader { at: *point, used: n });
            }
            _ => {
                if let Some(oldest) = self.leaders.iter_mut().min_by_key(|l| l.used) {
                    *oldest = Leader { at: *point, used: n };
                }
                self.radius = self.radius.max(RADIUS_MIN) * GROW;
            }
        }
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        put_f32(out, self.radius);
        out.push(self.leaders.len() as u8);
        for leader in &self.leaders {
            leader.at.iter().for_each(|x| put_f32(out, *x));
            out.extend(leader.used.to_le_bytes());
        }
    }

    pub(super) fn get(bytes: &mut &[u8]) -> Option<Self> {
        let radius = get_f32(bytes)?;
        let count = usize::from(get_u8(bytes)?);
        if count > LEADERS_MAX {
            return None;
        }
        let mut leaders = Vec::with_capacity(LEADERS_MAX);
        for _ in 0..count {
            let at = [get_f32(bytes)?, get_f32(bytes)?, get_f32(bytes)?];
            let (used, rest) = bytes.split_first_chunk::<4>()?;
            *bytes = rest;
            leaders.push(Leader { at, used: u32::from_le_bytes(*used) });
        }
        Some(Self { leaders, radius })
    }
}
