//! Random numbers from a seed: SplitMix64 (Steele, Lea, Flood 2014).

pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `low` to below `high`.
    pub(crate) fn range(&mut self, low: i64, high: i64) -> i64 {
        low + (self.next() % (high - low).unsigned_abs()).cast_signed()
    }

    /// True in `percent` of 100.
    pub(crate) fn chance(&mut self, percent: i64) -> bool {
        self.range(0, 100) < percent
    }

    pub(crate) fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[usize::try_from(self.range(0, i64::try_from(of.len()).unwrap())).unwrap()]
    }

    /// A few of them, in their order, at least one.
    pub(crate) fn some<'a, T>(&mut self, of: &'a [T], percent: i64) -> Vec<&'a T> {
        let mut some: Vec<&T> = of.iter().filter(|_| self.chance(percent)).collect();
        if some.is_empty() {
            some.push(self.pick(of));
        }
        some
    }
}
