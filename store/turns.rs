//! Memory that flushes share: who needs more of it than is free waits.

use parking_lot::{Condvar, Mutex};

/// Bytes that are free, of so many.
#[derive(Debug)]
pub(crate) struct Turns {
    all: usize,
    free: Mutex<usize>,
    freed: Condvar,
}

/// A part of the memory; dropping it gives it back.
pub(crate) struct Turn<'a> {
    turns: &'a Turns,
    bytes: usize,
}

impl Turns {
    pub(crate) fn new(bytes: usize) -> Self {
        Self { all: bytes, free: Mutex::new(bytes), freed: Condvar::new() }
    }

    /// Waits for `bytes`; what is larger than all there is gets all.
    pub(crate) fn take(&self, bytes: usize) -> Turn<'_> {
        let bytes = bytes.min(self.all);
        let mut free = self.free.lock();
        while *free < bytes {
            self.freed.wait(&mut free);
        }
        *free -= bytes;
        Turn { turns: self, bytes }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        *self.turns.free.lock() += self.bytes;
        self.turns.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_ones_share_and_a_large_one_has_it_alone() {
        let turns = Turns::new(100);
        let (a, b) = (turns.take(40), turns.take(60));
        std::thread::scope(|scope| {
            let large = scope.spawn(|| turns.take(1_000).bytes);
            drop((a, b));
            assert_eq!(large.join().unwrap_or_default(), 100);
        });
        assert_eq!(*turns.free.lock(), 100);
    }
}
