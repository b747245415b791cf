//! Attempts under way, and which come next.

use std::collections::{BTreeMap, HashMap};

use tokio::task::{JoinError, JoinSet};

use super::core::Delivery;
use crate::notify::SendError;

/// Attempts under way at once, in all.
const ATTEMPTS_MAX: usize = 64;
/// Attempts under way at once at one target.
const ATTEMPTS_PER_TARGET_MAX: usize = 4;

pub(super) type Ended = Result<(u64, Result<(), SendError>), JoinError>;

/// Attempts under way.
#[derive(Default)]
pub(super) struct Attempts {
    pub(super) tasks: JoinSet<(u64, Result<(), SendError>)>,
    pub(super) load: Load,
}

/// What targets are busy with.
#[derive(Clone, Default)]
pub(super) struct Load {
    /// Target id by number of delivery.
    pub(super) numbers: BTreeMap<u64, String>,
    /// Targets that asked to wait, and until when.
    pub(super) paused: HashMap<String, i64>,
    /// How far all timers were moved when this was last looked at.
    pub(super) moved: i64,
}

impl Load {
    /// Timers were moved this far in all, because the clock was set.
    pub(super) fn follow(&mut self, moved: i64) {
        let by = moved.saturating_sub(std::mem::replace(&mut self.moved, moved));
        self.paused.values_mut().for_each(|until| *until = until.saturating_add(by));
    }

    /// The attempts to begin now, which count as under way from here on, and when others are due.
    /// A target that is busy or asked to wait takes no turn from others.
    pub(super) fn admit(
        &mut self,
        now: i64,
        deliveries: &BTreeMap<u64, Delivery>,
    ) -> (Vec<(u64, Delivery)>, i64) {
        self.paused.retain(|_, until| *until > now);
        let mut at_target: HashMap<String, usize> = HashMap::new();
        for target in self.numbers.values() {
            *at_target.entry(target.clone()).or_default() += 1;
        }
        let (mut go, mut next) = (Vec::new(), i64::MAX);
        for (number, delivery) in deliveries {
            let id = &delivery.target.id;
            let from = self.paused.get(id).map_or(i64::MIN, |until| *until);
            let from = from.max(delivery.next_attempt);
            if self.numbers.contains_key(number) {
                continue;
            }
            if from > now {
                next = next.min(from);
                continue;
            }
            let here = at_target.entry(id.clone()).or_default();
            if self.numbers.len() < ATTEMPTS_MAX && *here < ATTEMPTS_PER_TARGET_MAX {
                *here += 1;
                self.numbers.insert(*number, id.clone());
                go.push((*number, delivery.clone()));
            }
        }
        (go, next)
    }
}
