//! Where windows have the groups of an entity table, so that a row finds its group without its key.

/// Maps that are remembered: open windows that rows go to, of one table each.
const MAPS_MAX: usize = 64;

/// A group that has no place in the window yet.
pub(super) const NONE: u32 = u32::MAX;

/// The place in a window of each group of a table, or [`NONE`].
#[derive(Debug)]
struct Map {
    window: i64,
    table: u64,
    places: Vec<u32>,
}

/// The maps that were used last. They can be made anew from the keys, and are no state.
#[derive(Debug, Default)]
pub(super) struct Places(Vec<Map>);

impl Places {
    /// Takes the map of a window out, for the `groups` groups that a batch may have. Groups of no
    /// table have a map for the batch alone.
    pub(super) fn take(&mut self, window: i64, table: Option<u64>, groups: usize) -> Vec<u32> {
        let same = |m: &Map| m.window == window && Some(m.table) == table;
        let mut places = match self.0.iter().position(same) {
            Some(at) => self.0.remove(at).places,
            None => Vec::new(),
        };
        places.resize(groups, NONE);
        places
    }

    /// Puts a map back.
    pub(super) fn put(&mut self, window: i64, table: Option<u64>, places: Vec<u32>) {
        let Some(table) = table else { return };
        if self.0.len() >= MAPS_MAX {
            self.0.remove(0);
        }
        self.0.push(Map { window, table, places });
    }

    /// A window is no more.
    pub(super) fn forget(&mut self, window: i64) {
        self.0.retain(|m| m.window != window);
    }

    /// All windows are others.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
