//! Seed to independent streams: the only source of chance in the engine.
//!
//! SplitMix64 (Steele, Lea and Flood, 2014), which is a bijection of its counter, so streams never depend on the order
//! in which threads draw.

/// A stream of pseudo-random numbers that is a pure function of seed and purpose.
#[derive(Clone, Debug)]
pub struct Stream {
    state: u64,
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Stream {
    /// The stream of `seed` for one purpose and one number, such as a row.
    pub fn new(seed: u64, purpose: u64, number: u64) -> Self {
        let state =
            mix(seed.wrapping_add(GOLDEN)) ^ mix(purpose.wrapping_mul(GOLDEN).wrapping_add(1));
        Stream {
            state: mix(state ^ mix(number.wrapping_add(GOLDEN))),
        }
    }

    /// The next 64 bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GOLDEN);
        mix(self.state)
    }

    /// A number below `bound`, which must not be 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.next_u64()) * u128::from(bound)) >> 64) as u64
    }

    /// Shuffles in place (Fisher and Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_differ_by_each_argument_and_repeat() {
        let first = |seed, purpose, number| Stream::new(seed, purpose, number).next_u64();
        assert_eq!(first(1, 2, 3), first(1, 2, 3));
        assert!(
            first(1, 2, 3) != first(2, 2, 3)
                && first(1, 2, 3) != first(1, 3, 3)
                && first(1, 2, 3) != first(1, 2, 4)
        );
    }

    #[test]
    fn a_shuffle_keeps_every_item() {
        let mut items: Vec<u32> = (0..1000).collect();
        Stream::new(0, 0, 0).shuffle(&mut items);
        assert!(items.iter().enumerate().any(|(i, &x)| i as u32 != x));
        items.sort_unstable();
        assert!(items.iter().enumerate().all(|(i, &x)| i as u32 == x));
    }
}
