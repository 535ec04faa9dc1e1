//! What the tests draw, the same on every machine.

/// Steele, Lea and Flood's SplitMix64 (2014).
pub(super) struct Draw {
    state: u64,
}

impl Draw {
    pub(super) fn new(case: u64) -> Self {
        Self { state: case.wrapping_mul(0x2545_f491_4f6c_dd1d) }
    }

    pub(super) fn word(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: usize) -> usize {
        (self.word() % end as u64) as usize
    }

    /// From `first` to `last`, both included.
    pub(super) fn within(&mut self, first: usize, last: usize) -> usize {
        first + self.below(last - first + 1)
    }

    /// As good as normally distributed.
    pub(super) fn normal(&mut self) -> f32 {
        (0..12).map(|_| self.below(1 << 20) as f32 / (1 << 20) as f32).sum::<f32>() - 6.0
    }

    pub(super) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    pub(super) fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }

    /// Between -1 and 1; now and then zero, or much larger than the others.
    pub(super) fn number(&mut self) -> f32 {
        let x = (self.word() >> 40) as f32 / (1 << 23) as f32 - 1.0;
        match self.below(64) {
            0 => 0.0,
            1 => 20.0 * x,
            _ => x,
        }
    }

    pub(super) fn numbers(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.number()).collect()
    }
}
