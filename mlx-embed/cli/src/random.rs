//! Numbers that only have to look random, the same in every run.

/// Xorshift (Marsaglia, 2003).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    /// Different seeds give different numbers.
    pub(crate) fn new(seed: u64) -> Self {
        // Zero would stay zero, and neighbouring seeds should not begin alike.
        let mut random = Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for _ in 0..4 {
            random.next();
        }
        random
    }

    /// Up to 48 bits.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 >> 16
    }

    /// From 0 to below `bound`.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// Above 0, up to 1.
    pub(crate) fn share(&mut self) -> f64 {
        (self.next() + 1) as f64 / (1_u64 << 48) as f64
    }
}
