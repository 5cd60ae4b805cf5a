//! The vector type that every kernel is written over: 32 lanes of `f32`, held in as many registers
//! as the instruction set needs. Touches nothing but its arguments.
//!
//! [`Simd`] is what an instruction set provides: one register (a *part* of the 32 lanes) and a
//! handful of operations. [`pairs`] is the one loop behind all sums, [`scalar`](crate::scalar) its
//! meaning. A value of a `Simd` type proves that the CPU has the instructions, so its operations are
//! safe to call; everything here is `#[inline(always)]`, because it must become part of a function
//! compiled for that instruction set.

use half::f16;

/// Number of virtual lanes. Part of the meaning of every `f32` sum, so it never depends on the CPU.
pub(crate) const LANES: usize = 32;

/// One instruction set. A value exists only where the CPU has it.
pub(crate) trait Simd: Copy {
    /// One register.
    type Part: Copy;
    /// Lanes of one register; divides [`LANES`].
    const WIDTH: usize;

    fn zero(self) -> Self::Part;
    /// The same value in every lane.
    fn splat(self, value: f32) -> Self::Part;
    /// Bit `i` is set where lane `i` of `a` is less than that of `b`.
    fn less(self, a: Self::Part, b: Self::Part) -> u32;
    /// Lanes `part * WIDTH ..` of a block.
    fn load(self, block: &[f32; LANES], part: usize) -> Self::Part;
    /// The same of a block of `f16`, converted exactly.
    fn load_f16(self, block: &[f16; LANES], part: usize) -> Self::Part;
    /// Lanes `part * WIDTH ..` of a block of which only the beginning exists; the others are zero.
    fn load_partial(self, tail: &[f32], part: usize) -> Self::Part;
    /// The same of a block of `f16`, converted exactly.
    fn load_partial_f16(self, tail: &[f16], part: usize) -> Self::Part;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::Part, b: Self::Part, c: Self::Part) -> Self::Part;
    fn mul(self, a: Self::Part, b: Self::Part) -> Self::Part;
    fn sub(self, a: Self::Part, b: Self::Part) -> Self::Part;
    fn add(self, a: Self::Part, b: Self::Part) -> Self::Part;
    /// Sum of a register's lanes: lane `i` with `i + WIDTH / 2`, and so on down to `i + 1`.
    fn reduce(self, a: Self::Part) -> f32;
    /// [`Simd::reduce`] of four registers, for instruction sets that can share the work.
    #[inline(always)]
    fn reduce4(self, parts: [Self::Part; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        for i in 0..4 {
            sums[i] = self.reduce(parts[i]);
        }
        sums
    }
    /// Hadamard transform of a register's lanes: strides 1, 2, ... `WIDTH / 2`, in this order.
    fn hadamard(self, a: Self::Part) -> Self::Part;
    /// Writes lanes `part * WIDTH ..` of a block.
    fn store(self, a: Self::Part, block: &mut [f32; LANES], part: usize);
    /// The same to a block of `f16`, rounded to nearest, ties to even.
    fn store_f16(self, a: Self::Part, block: &mut [f16; LANES], part: usize);
}

/// A type of row that registers can be loaded from.
pub(crate) trait Element: Copy {
    fn load<S: Simd>(simd: S, block: &[Self; LANES], part: usize) -> S::Part;
    fn load_partial<S: Simd>(simd: S, tail: &[Self], part: usize) -> S::Part;
}

impl Element for f32 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &[f32; LANES], part: usize) -> S::Part {
        simd.load(block, part)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(simd: S, tail: &[f32], part: usize) -> S::Part {
        simd.load_partial(tail, part)
    }
}

impl Element for f16 {
    #[inline(always)]
    fn load<S: Simd>(simd: S, block: &[f16; LANES], part: usize) -> S::Part {
        simd.load_f16(block, part)
    }

    #[inline(always)]
    fn load_partial<S: Simd>(simd: S, tail: &[f16], part: usize) -> S::Part {
        simd.load_partial_f16(tail, part)
    }
}

/// What is summed over the lanes of two vectors.
pub(crate) trait Term {
    fn accumulate<S: Simd>(simd: S, query: S::Part, row: S::Part, sum: S::Part) -> S::Part;
}

/// Inner product.
pub(crate) struct Dot;

impl Term for Dot {
    #[inline(always)]
    fn accumulate<S: Simd>(simd: S, query: S::Part, row: S::Part, sum: S::Part) -> S::Part {
        simd.mul_add(query, row, sum)
    }
}

/// Squared Euclidean distance.
pub(crate) struct L2;

impl Term for L2 {
    #[inline(always)]
    fn accumulate<S: Simd>(simd: S, query: S::Part, row: S::Part, sum: S::Part) -> S::Part {
        let difference = simd.sub(query, row);
        simd.mul_add(difference, difference, sum)
    }
}

/// The sums of every pair of `Q` queries and `R` rows.
///
/// `N` is the number of registers that hold 32 lanes. `G` of them are carried through the vectors at
/// once, the others in further passes over the same (cached) memory: lanes never meet before the
/// final reduction, so this changes the number of live registers, `Q * R * G`, and no bit of a
/// result.
#[inline(always)]
pub(crate) fn pairs<
    S: Simd,
    O: Term,
    T: Element,
    const N: usize,
    const G: usize,
    const Q: usize,
    const R: usize,
>(
    simd: S,
    queries: [&[f32]; Q],
    rows: [&[T]; R],
) -> [[f32; R]; Q] {
    const { assert!(N * S::WIDTH == LANES && N.is_multiple_of(G) && Q > 0 && R > 0) }
    let len = queries[0].len();
    let mut equal = true;
    for query in queries {
        equal &= query.len() == len;
    }
    for row in rows {
        equal &= row.len() == len;
    }
    assert!(equal, "queries and rows differ in length");
    let blocks = len / LANES;

    let mut lanes = [[[simd.zero(); N]; R]; Q];
    let mut first = 0;
    while first < N {
        let mut sums = [[[simd.zero(); G]; R]; Q];
        for block in 0..blocks {
            for g in 0..G {
                let mut loaded = [simd.zero(); Q];
                for q in 0..Q {
                    // SAFETY: `block < len / LANES`, and every query's length is `len`, asserted above.
                    let lanes = unsafe { whole_block(queries[q], block) };
                    loaded[q] = simd.load(lanes, first + g);
                }
                for r in 0..R {
                    // SAFETY: `block < len / LANES`, and every row's length is `len`, asserted above.
                    let lanes = unsafe { whole_block(rows[r], block) };
                    let row = T::load(simd, lanes, first + g);
                    for q in 0..Q {
                        sums[q][r][g] = O::accumulate(simd, loaded[q], row, sums[q][r][g]);
                    }
                }
            }
        }
        if !len.is_multiple_of(LANES) {
            for g in 0..G {
                let mut loaded = [simd.zero(); Q];
                for q in 0..Q {
                    loaded[q] = simd.load_partial(&queries[q][blocks * LANES..], first + g);
                }
                for r in 0..R {
                    let row = T::load_partial(simd, &rows[r][blocks * LANES..], first + g);
                    for q in 0..Q {
                        sums[q][r][g] = O::accumulate(simd, loaded[q], row, sums[q][r][g]);
                    }
                }
            }
        }
        for q in 0..Q {
            for r in 0..R {
                for g in 0..G {
                    lanes[q][r][first + g] = sums[q][r][g];
                }
            }
        }
        first += G;
    }

    let mut totals = [[0.0; R]; Q];
    for q in 0..Q {
        let mut folded = [simd.zero(); R];
        for r in 0..R {
            folded[r] = fold(simd, lanes[q][r]);
        }
        let (fours, rest) = folded.as_chunks::<4>();
        let (four_totals, rest_totals) = totals[q].as_chunks_mut::<4>();
        for (total, &four) in four_totals.iter_mut().zip(fours) {
            *total = simd.reduce4(four);
        }
        for (total, &one) in rest_totals.iter_mut().zip(rest) {
            *total = simd.reduce(one);
        }
    }
    totals
}

/// The beginning of the one reduction tree: 32 lanes to those of one register.
#[inline(always)]
fn fold<S: Simd, const N: usize>(simd: S, mut lanes: [S::Part; N]) -> S::Part {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = simd.add(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}

/// # Safety
///
/// `vector` must have at least `(block + 1) * LANES` elements.
#[inline(always)]
unsafe fn whole_block<T>(vector: &[T], block: usize) -> &[T; LANES] {
    // SAFETY: the caller promises that these elements exist; an array has its element's alignment.
    unsafe { &*vector.as_ptr().add(block * LANES).cast() }
}

/// Conversion of `f32` to `f16`, rounded to nearest, ties to even.
#[inline(always)]
pub(crate) fn narrow<S: Simd, const N: usize>(simd: S, from: &[f32], to: &mut [f16]) {
    let (blocks, tail) = from.as_chunks::<LANES>();
    let (to_blocks, to_tail) = to.as_chunks_mut::<LANES>();
    for (block, to_block) in blocks.iter().zip(to_blocks) {
        for part in 0..N {
            simd.store_f16(simd.load(block, part), to_block, part);
        }
    }
    if !tail.is_empty() {
        let mut block = [f16::ZERO; LANES];
        for part in 0..N {
            simd.store_f16(simd.load_partial(tail, part), &mut block, part);
        }
        to_tail.copy_from_slice(&block[..tail.len()]);
    }
}

/// Conversion of `f16` to `f32`, which is exact.
#[inline(always)]
pub(crate) fn widen<S: Simd, const N: usize>(simd: S, from: &[f16], to: &mut [f32]) {
    let (blocks, tail) = from.as_chunks::<LANES>();
    let (to_blocks, to_tail) = to.as_chunks_mut::<LANES>();
    for (block, to_block) in blocks.iter().zip(to_blocks) {
        for part in 0..N {
            simd.store(simd.load_f16(block, part), to_block, part);
        }
    }
    if !tail.is_empty() {
        let mut block = [0.0; LANES];
        for part in 0..N {
            simd.store(simd.load_partial_f16(tail, part), &mut block, part);
        }
        to_tail.copy_from_slice(&block[..tail.len()]);
    }
}

/// Whether no value is infinite or not a number. Plain code: compiled for a wide instruction set, the
/// compiler's own vectors are as fast as memory.
#[inline(always)]
pub(crate) fn all_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = 0x7f80_0000;
    no_special(values, |value| value.to_bits() & EXPONENT == EXPONENT)
}

/// The same for `f16`.
#[inline(always)]
pub(crate) fn all_finite_f16(values: &[f16]) -> bool {
    const EXPONENT: u16 = 0x7c00;
    no_special(values, |value| value.to_bits() & EXPONENT == EXPONENT)
}

#[inline(always)]
fn no_special<T: Copy>(values: &[T], is_special: impl Fn(T) -> bool) -> bool {
    /// Values looked at between two exits: long enough for vectors, short enough to stop early.
    const RUN: usize = 128;
    let (runs, tail) = values.as_chunks::<RUN>();
    for run in runs {
        if any(run, &is_special) {
            return false;
        }
    }
    !any(tail, &is_special)
}

/// Without an early exit, which vectors cannot take.
#[inline(always)]
fn any<T: Copy>(values: &[T], is_special: &impl Fn(T) -> bool) -> bool {
    let mut special = false;
    for &value in values {
        special |= is_special(value);
    }
    special
}
