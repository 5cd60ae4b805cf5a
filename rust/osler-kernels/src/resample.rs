//! Weighted sums along one axis of a picture: what a separable resize is made of. Bytes are summed in whole numbers and
//! rounded to bytes, `f32` in `f64`. Writes only `out`, and lines that it turns.
//!
//! Plain code: compiled for a wide instruction set, the compiler's own vectors are good. Sums along a row are turned
//! into sums down columns: some lines at a time lie side by side, so that both directions are one loop.

use std::ops::RangeInclusive;

/// Which numbers of a line make which result: result `i` is the sum of `weights[k i + t] * line[first[i] + t]` over
/// the `k` taps `t`, from the first to the last. Of bytes it is shifted right by `bits`, a half rounded up, and cut to
/// 0..=255.
///
/// ```
/// // the mean of neighbours, in fixed point with one bit
/// let taps = osler_kernels::Taps { first: &[0, 1], weights: &[1, 1, 1, 1], bits: 1 };
/// let mut out = [0; 2];
/// osler_kernels::resample_u8(&[10, 20, 40], [1, 3, 1], taps, &mut out);
/// assert_eq!(out, [15, 30]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a, T: Sample = u8> {
    /// Where each result's taps begin.
    pub first: &'a [u32],
    /// As many for every result.
    pub weights: &'a [T::Weight],
    /// Bits behind the point of whole weights, 1 to 30, whose sums wrap around at 32 bits; 0 for floats.
    pub bits: u32,
}

impl<T: Sample> Taps<'_, T> {
    /// Taps of one result.
    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        self.weights
            .len()
            .checked_div(self.first.len())
            .unwrap_or(0)
    }

    /// Whether there are taps, as many for every result, none outside a line of `source` numbers, and the bits are right.
    ///
    /// ```
    /// let taps: osler_kernels::Taps = osler_kernels::Taps { first: &[0, 1], weights: &[1, 1, 1, 1], bits: 1 };
    /// assert!(taps.fit(3) && !taps.fit(2));
    /// ```
    pub fn fit(&self, source: usize) -> bool {
        let width = self.width();
        let inside = |&first: &u32| {
            (first as usize)
                .checked_add(width)
                .is_some_and(|end| end <= source)
        };
        width > 0
            && width * self.first.len() == self.weights.len()
            && T::BITS.contains(&self.bits)
            && self.first.iter().all(inside)
    }
}

/// What a picture is made of: `u8` or `f32`.
///
/// ```
/// use osler_kernels::{Sample, Taps};
/// let taps = Taps { first: &[0], weights: &[0.25, 0.75], bits: 0 };
/// let mut out = [0.0];
/// f32::resample(&[0.0, 100.0], [1, 2, 1], taps, &mut out);
/// assert_eq!(out, [75.0]);
/// ```
pub trait Sample: Copy + Default + std::fmt::Debug + Sum {
    /// [`resample_u8`](crate::resample_u8) or [`resample_f32`](crate::resample_f32).
    fn resample(picture: &[Self], shape: [usize; 3], taps: Taps<Self>, out: &mut [Self]);
}

/// How samples are summed.
pub trait Sum: Sized {
    /// What samples are weighted with, which is also what their sums are kept in.
    type Weight: Copy + std::fmt::Debug;
    /// How many bits weights may have behind their point.
    const BITS: RangeInclusive<u32>;
    /// What a sum begins with.
    fn start(bits: u32) -> Self::Weight;
    /// A sum and one more term.
    fn add(sum: Self::Weight, value: Self, weight: Self::Weight) -> Self::Weight;
    /// The sample that a sum gives.
    fn end(sum: Self::Weight, bits: u32) -> Self;
}

impl Sample for u8 {
    fn resample(picture: &[u8], shape: [usize; 3], taps: Taps, out: &mut [u8]) {
        crate::resample_u8(picture, shape, taps, out);
    }
}

impl Sum for u8 {
    type Weight = i32;
    const BITS: RangeInclusive<u32> = 1..=30;
    #[inline(always)]
    fn start(bits: u32) -> i32 {
        1 << (bits - 1)
    }
    #[inline(always)]
    fn add(sum: i32, value: u8, weight: i32) -> i32 {
        sum.wrapping_add(i32::from(value).wrapping_mul(weight))
    }
    #[inline(always)]
    fn end(sum: i32, bits: u32) -> u8 {
        (sum >> bits).clamp(0, 255) as u8
    }
}

impl Sample for f32 {
    fn resample(picture: &[f32], shape: [usize; 3], taps: Taps<f32>, out: &mut [f32]) {
        crate::resample_f32(picture, shape, taps, out);
    }
}

impl Sum for f32 {
    type Weight = f64;
    const BITS: RangeInclusive<u32> = 0..=0;
    #[inline(always)]
    fn start(_bits: u32) -> f64 {
        0.0
    }
    #[inline(always)]
    fn add(sum: f64, value: f32, weight: f64) -> f64 {
        sum + f64::from(value) * weight
    }
    #[inline(always)]
    fn end(sum: f64, _bits: u32) -> f32 {
        sum as f32
    }
}

/// Sums along the middle axis. `WIDE` sums are kept in registers; `SIDE` lines, a power of two, lie side by side while
/// sums along them are taken.
#[inline(always)]
pub(crate) fn along<T: Sample, const WIDE: usize, const SIDE: usize>(
    picture: &[T],
    [outer, length, inner]: [usize; 3],
    taps: Taps<T>,
    out: &mut [T],
) {
    let made = taps.first.len() * inner;
    // with fewer lines, what turns them would take more memory than they do
    if outer < SIDE || inner >= SIDE {
        let slabs = picture.chunks_exact(length * inner);
        for (slab, out) in slabs.zip(out.chunks_exact_mut(made)) {
            down::<T, WIDE, SIDE>(slab, inner, taps, out);
        }
        return;
    }
    let mut standing = vec![T::default(); length * inner * SIDE];
    let mut sums = vec![T::default(); made * SIDE];
    let groups = picture.chunks(length * inner * SIDE);
    for (lines, out) in groups.zip(out.chunks_mut(made * SIDE)) {
        stand::<T, SIDE>(lines, length * inner, &mut standing);
        down::<T, WIDE, SIDE>(&standing, inner * SIDE, taps, &mut sums);
        lay::<T, SIDE>(&sums, made, out);
    }
}

/// Sums down the columns of rows of `stride` samples.
#[inline(always)]
fn down<T: Sample, const WIDE: usize, const SIDE: usize>(
    picture: &[T],
    stride: usize,
    taps: Taps<T>,
    out: &mut [T],
) {
    let width = taps.width();
    let places = taps.first.iter().zip(taps.weights.chunks_exact(width));
    for ((&first, weights), out) in places.zip(out.chunks_exact_mut(stride)) {
        let from = first as usize * stride;
        let source = &picture[from..from + width * stride];
        let mut at = 0;
        while at + WIDE <= stride {
            sums::<T, WIDE>(source, at, weights, taps.bits, out);
            at += WIDE;
        }
        while at + SIDE <= stride {
            sums::<T, SIDE>(source, at, weights, taps.bits, out);
            at += SIDE;
        }
        while at < stride {
            sums::<T, 1>(source, at, weights, taps.bits, out);
            at += 1;
        }
    }
}

/// `COUNT` neighbouring sums, the first at `at` of a row.
#[inline(always)]
fn sums<T: Sample, const COUNT: usize>(
    source: &[T],
    at: usize,
    weights: &[T::Weight],
    bits: u32,
    out: &mut [T],
) {
    let mut total = [T::start(bits); COUNT];
    let mut place = at;
    for &weight in weights {
        let values = &source[place..place + COUNT];
        for i in 0..COUNT {
            total[i] = T::add(total[i], values[i], weight);
        }
        place += out.len();
    }
    let out = &mut out[at..at + COUNT];
    for i in 0..COUNT {
        out[i] = T::end(total[i], bits);
    }
}

/// Turns up to `SIDE` lines into columns: value `x` of line `y` goes to place `SIDE x + y`.
#[inline(always)]
fn stand<T: Sample, const SIDE: usize>(lines: &[T], wide: usize, standing: &mut [T]) {
    let (columns, _) = standing.as_chunks_mut::<SIDE>();
    let whole = if lines.len() == wide * SIDE {
        wide - wide % SIDE
    } else {
        0
    };
    for (at, block) in (0..)
        .step_by(SIDE)
        .zip(columns[..whole].chunks_exact_mut(SIDE))
    {
        let mut square = [[T::default(); SIDE]; SIDE];
        for y in 0..SIDE {
            square[y].copy_from_slice(&lines[wide * y + at..wide * y + at + SIDE]);
        }
        block.copy_from_slice(&turned(square));
    }
    for (x, column) in columns.iter_mut().enumerate().skip(whole) {
        for (y, line) in lines.chunks_exact(wide).enumerate() {
            column[y] = line[x];
        }
    }
}

/// Turns columns of `SIDE` back into as many lines as `out` has.
#[inline(always)]
fn lay<T: Sample, const SIDE: usize>(sums: &[T], narrow: usize, out: &mut [T]) {
    let (columns, _) = sums.as_chunks::<SIDE>();
    let whole = narrow - narrow % SIDE;
    for (at, block) in (0..).step_by(SIDE).zip(columns[..whole].chunks_exact(SIDE)) {
        let mut square = [[T::default(); SIDE]; SIDE];
        square.copy_from_slice(block);
        let square = turned(square);
        for (line, made) in out.chunks_exact_mut(narrow).zip(&square) {
            line[at..at + SIDE].copy_from_slice(made);
        }
    }
    for (x, column) in columns.iter().enumerate().skip(whole) {
        for (line, &sum) in out.chunks_exact_mut(narrow).zip(column) {
            line[x] = sum;
        }
    }
}

/// The transpose of a square: again and again, rows and those half a square below are laid into each other.
#[inline(always)]
fn turned<T: Copy, const SIDE: usize>(mut square: [[T; SIDE]; SIDE]) -> [[T; SIDE]; SIDE] {
    for _ in 0..SIDE.ilog2() {
        let before = square;
        for i in 0..SIDE / 2 {
            let (upper, lower) = (before[i], before[i + SIDE / 2]);
            for j in 0..SIDE / 2 {
                square[2 * i][2 * j] = upper[j];
                square[2 * i][2 * j + 1] = lower[j];
                square[2 * i + 1][2 * j] = upper[j + SIDE / 2];
                square[2 * i + 1][2 * j + 1] = lower[j + SIDE / 2];
            }
        }
    }
    square
}
