//! A seeded random rotation, which spreads a vector's length evenly over its values in time O(d log d).
//!
//! Rounds of sign flips and fast Hadamard transforms (Ailon and Chazelle, "The fast Johnson-Lindenstrauss transform",
//! 2009). Where the width is no power of two, each round turns a block that is: the beginning and the end in turn, which
//! overlap. A pure function of width and seed, the same bits on every machine.

use crate::random::Stream;

/// The rotated width is a multiple of this, so that codes fill whole registers.
pub(super) const STEP: usize = 64;

/// Enough for a width that is a power of two (Andoni et al., "Practical and optimal LSH for angular distance", 2015).
const ROUNDS: usize = 3;

/// Beginning and end, twice each.
const OVERLAPPING_ROUNDS: usize = 4;

/// Number of the random stream, of which no other part of the engine has the same.
const PURPOSE: u64 = 10;

/// An orthogonal map from `dim` values to [`padded`](Rotation::padded) values.
///
/// ```
/// use osler_core::quantize::rotation::Rotation;
///
/// let rotation = Rotation::new(3, 0);
/// let mut rotated = vec![0.0; rotation.padded()];
/// rotation.apply(&[2.0, 3.0, 6.0], &mut rotated);
/// let length = rotated.iter().map(|x| x * x).sum::<f32>().sqrt();
/// assert!((length - 7.0).abs() < 1e-5);
/// ```
#[derive(Clone, Debug)]
pub struct Rotation {
    dim: usize,
    padded: usize,
    /// Values that one round turns: a power of two.
    block: usize,
    /// For each round and value of its block, a sign times the scale that keeps lengths.
    factors: Vec<f32>,
}

impl Rotation {
    /// The rotation of vectors of `dim` values that belongs to `seed`.
    pub fn new(dim: usize, seed: u64) -> Self {
        let padded = dim.max(1).next_multiple_of(STEP);
        let block = if padded.is_power_of_two() {
            padded
        } else {
            padded.next_power_of_two() / 2
        };
        let rounds = if block == padded {
            ROUNDS
        } else {
            OVERLAPPING_ROUNDS
        };
        let scale = (1.0 / (block as f64).sqrt()) as f32;
        let mut factors = Vec::with_capacity(rounds * block);
        for round in 0..rounds {
            let mut stream = Stream::new(seed, PURPOSE, round as u64);
            for _ in 0..block / STEP {
                let signs = stream.next_u64();
                factors.extend((0..STEP).map(
                    |bit| {
                        if signs >> bit & 1 == 0 { scale } else { -scale }
                    },
                ));
            }
        }
        Rotation {
            dim,
            padded,
            block,
            factors,
        }
    }

    /// Values of a vector.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// Values of a rotated vector: `dim` rounded up to a multiple of 64.
    pub fn padded(&self) -> usize {
        self.padded
    }

    /// Writes the rotated `vector` to `out`. Lengths and inner products are kept up to rounding.
    ///
    /// # Panics
    /// Where `vector` has not `dim` values or `out` not [`padded`](Rotation::padded).
    pub fn apply(&self, vector: &[f32], out: &mut [f32]) {
        assert_eq!(out.len(), self.padded, "length of a rotated vector");
        out[..self.dim].copy_from_slice(vector);
        out[self.dim..].fill(0.0);
        for (round, factors) in self.factors.chunks_exact(self.block).enumerate() {
            osler_kernels::hadamard(&mut out[self.start(round)..][..self.block], factors);
        }
    }

    /// Writes the vector of which `rotated` is the rotation; `rotated` is used as working space.
    ///
    /// # Panics
    /// Where `rotated` has not [`padded`](Rotation::padded) values or `out` not `dim`.
    pub fn invert(&self, rotated: &mut [f32], out: &mut [f32]) {
        assert_eq!(rotated.len(), self.padded, "length of a rotated vector");
        let ones = vec![1.0; self.block];
        for (round, factors) in self.factors.chunks_exact(self.block).enumerate().rev() {
            let block = &mut rotated[self.start(round)..][..self.block];
            osler_kernels::hadamard(block, &ones);
            for (value, factor) in block.iter_mut().zip(factors) {
                *value *= factor;
            }
        }
        out.copy_from_slice(&rotated[..self.dim]);
    }

    fn start(&self, round: usize) -> usize {
        if round.is_multiple_of(2) {
            0
        } else {
            self.padded - self.block
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use proptest::test_runner::RngSeed;

    const DIMS: [usize; 14] = [
        1, 3, 63, 64, 65, 100, 128, 320, 384, 448, 512, 768, 960, 1000,
    ];

    fn rotated(rotation: &Rotation, vector: &[f32]) -> Vec<f32> {
        let mut out = vec![f32::NAN; rotation.padded()];
        rotation.apply(vector, &mut out);
        out
    }

    fn dot(a: &[f32], b: &[f32]) -> f64 {
        a.iter()
            .zip(b)
            .map(|(&a, &b)| f64::from(a) * f64::from(b))
            .sum()
    }

    /// Between -1 and 1.
    fn vector(dim: usize, seed: u64) -> Vec<f32> {
        let mut stream = Stream::new(seed, 0, dim as u64);
        (0..dim)
            .map(|_| (stream.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0)
            .collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, rng_seed: RngSeed::Fixed(0), failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn lengths_and_products_are_kept(dim in 1..1100usize, seed: u64) {
            let rotation = Rotation::new(dim, seed);
            let (a, b) = (vector(dim, seed), vector(dim, !seed));
            let (ra, rb) = (rotated(&rotation, &a), rotated(&rotation, &b));
            let size = (dot(&a, &a) * dot(&b, &b)).sqrt();
            prop_assert!((dot(&ra, &ra) / dot(&a, &a) - 1.0).abs() < 1e-5);
            prop_assert!((dot(&ra, &rb) - dot(&a, &b)).abs() < 1e-5 * size);
        }

        #[test]
        fn inverting_gives_the_vector_back(dim in 1..1100usize, seed: u64) {
            let rotation = Rotation::new(dim, seed);
            let a = vector(dim, seed);
            let mut back = vec![f32::NAN; dim];
            rotation.invert(&mut rotated(&rotation, &a), &mut back);
            for (a, back) in a.iter().zip(back) {
                prop_assert!((a - back).abs() < 1e-5);
            }
        }
    }

    #[test]
    fn a_single_value_is_spread_over_the_whole_width() {
        for dim in DIMS {
            for seed in 0..4 {
                let rotation = Rotation::new(dim, seed);
                for at in [0, dim / 2, dim - 1] {
                    let mut spike = vec![0.0; dim];
                    spike[at] = 1.0;
                    let out = rotated(&rotation, &spike);
                    // An even spread has 1; normal values have 1.25.
                    let mean = out.iter().map(|x| x.abs()).sum::<f32>() / out.len() as f32;
                    let spread = 1.0 / (mean * (out.len() as f32).sqrt());
                    assert!(spread < 1.6, "dim {dim}, seed {seed}, value {at}: {spread}");
                }
            }
        }
    }

    #[test]
    fn another_seed_is_another_rotation_and_the_same_seed_the_same() {
        let a = vector(384, 0);
        let by_seed = |seed| rotated(&Rotation::new(384, seed), &a);
        assert_eq!(by_seed(1), by_seed(1));
        let size = dot(&a, &a);
        assert!(dot(&by_seed(1), &by_seed(2)).abs() < 0.3 * size);
    }
}
