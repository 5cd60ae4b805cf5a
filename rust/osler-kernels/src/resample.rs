//! Weighted sums along one axis of a picture of bytes, each rounded to a byte: what a separable resize of 8-bit
//! pictures is made of. Writes only `out`.
//!
//! Plain code: compiled for a wide instruction set, the compiler's own vectors are good. Sums along a row are turned
//! into sums down columns: 16 lines at a time lie side by side, so that both directions are one loop.

/// Which numbers of a line make which result: result `i` is the sum of `weights[k i + t] * line[first[i] + t]` over
/// the `k` taps `t`, plus a half, shifted right by `bits` and cut to 0..=255.
///
/// ```
/// // the mean of neighbours, in fixed point with one bit
/// let taps = osler_kernels::Taps { first: &[0, 1], weights: &[1, 1, 1, 1], bits: 1 };
/// let mut out = [0; 2];
/// osler_kernels::resample_rows(&[10, 20, 40], 1, taps, &mut out);
/// assert_eq!(out, [15, 30]);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Taps<'a> {
    /// Where each result's taps begin.
    pub first: &'a [u32],
    /// As many for every result.
    pub weights: &'a [i32],
    /// Bits behind the point, 1 to 30. Sums wrap around at 32 bits.
    pub bits: u32,
}

impl Taps<'_> {
    /// Taps of one result.
    #[inline(always)]
    pub(crate) fn width(&self) -> usize {
        self.weights
            .len()
            .checked_div(self.first.len())
            .unwrap_or(0)
    }

    /// Whether there are taps, as many for every result, none outside a line of `source` numbers, and the bits are 1 to 30.
    ///
    /// ```
    /// let taps = osler_kernels::Taps { first: &[0, 1], weights: &[1, 1, 1, 1], bits: 1 };
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
            && (1..=30).contains(&self.bits)
            && self.first.iter().all(inside)
    }
}

#[inline(always)]
pub(crate) fn rounded(sum: i32, bits: u32) -> u8 {
    (sum >> bits).clamp(0, 255) as u8
}

/// Lines that lie side by side while sums along them are taken.
const SIDE: usize = 16;

/// Sums down the columns of rows of `stride` bytes.
#[inline(always)]
pub(crate) fn rows(picture: &[u8], stride: usize, taps: Taps, out: &mut [u8]) {
    if stride == 0 {
        return;
    }
    let width = taps.width();
    let places = taps.first.iter().zip(taps.weights.chunks_exact(width));
    for ((&first, weights), out) in places.zip(out.chunks_exact_mut(stride)) {
        let from = first as usize * stride;
        let source = &picture[from..from + width * stride];
        let mut at = 0;
        while at + 64 <= stride {
            sums::<64>(source, at, stride, weights, taps.bits, out);
            at += 64;
        }
        while at + 16 <= stride {
            sums::<16>(source, at, stride, weights, taps.bits, out);
            at += 16;
        }
        while at < stride {
            sums::<1>(source, at, stride, weights, taps.bits, out);
            at += 1;
        }
    }
}

/// `COUNT` neighbouring sums.
#[inline(always)]
fn sums<const COUNT: usize>(
    source: &[u8],
    at: usize,
    stride: usize,
    weights: &[i32],
    bits: u32,
    out: &mut [u8],
) {
    let mut total = [1_i32 << (bits - 1); COUNT];
    let mut place = at;
    for &weight in weights {
        let values = &source[place..place + COUNT];
        for i in 0..COUNT {
            total[i] = total[i].wrapping_add(i32::from(values[i]).wrapping_mul(weight));
        }
        place += stride;
    }
    let out = &mut out[at..at + COUNT];
    for i in 0..COUNT {
        out[i] = rounded(total[i], bits);
    }
}

/// Sums along rows of `columns` pixels of `channels` bytes.
#[inline(always)]
pub(crate) fn columns(picture: &[u8], columns: usize, channels: usize, taps: Taps, out: &mut [u8]) {
    let (wide, narrow) = (columns * channels, taps.first.len() * channels);
    if wide == 0 || narrow == 0 {
        return;
    }
    let mut standing = vec![0; wide * SIDE];
    let mut made = vec![0; narrow * SIDE];
    let groups = picture.chunks(wide * SIDE);
    for (lines, out) in groups.zip(out.chunks_mut(narrow * SIDE)) {
        if lines.len() == wide * SIDE {
            stand(lines, wide, &mut standing);
        } else {
            for (y, line) in lines.chunks_exact(wide).enumerate() {
                for (x, &value) in line.iter().enumerate() {
                    standing[SIDE * x + y] = value;
                }
            }
        }
        rows(&standing, channels * SIDE, taps, &mut made);
        lay(&made, narrow, out);
    }
}

/// Turns 16 lines into columns: value `x` of line `y` goes to place `16 x + y`.
#[inline(always)]
fn stand(lines: &[u8], wide: usize, standing: &mut [u8]) {
    let (blocks, tail) = standing.as_chunks_mut::<{ SIDE * SIDE }>();
    let mut at = 0;
    for block in blocks {
        let mut square = [[0; SIDE]; SIDE];
        for y in 0..SIDE {
            square[y].copy_from_slice(&lines[wide * y + at..wide * y + at + SIDE]);
        }
        *block.as_chunks_mut::<SIDE>().0.first_chunk_mut().unwrap() = turned(square);
        at += SIDE;
    }
    for x in 0..tail.len() / SIDE {
        for y in 0..SIDE {
            tail[SIDE * x + y] = lines[wide * y + at + x];
        }
    }
}

/// Turns columns of 16 back into as many lines as `out` has.
#[inline(always)]
fn lay(made: &[u8], narrow: usize, out: &mut [u8]) {
    let count = out.len() / narrow;
    let (blocks, tail) = made.as_chunks::<{ SIDE * SIDE }>();
    let mut at = 0;
    for block in blocks {
        let square = turned(*block.as_chunks::<SIDE>().0.first_chunk().unwrap());
        for (y, line) in square.iter().enumerate().take(count) {
            out[narrow * y + at..narrow * y + at + SIDE].copy_from_slice(line);
        }
        at += SIDE;
    }
    for x in 0..tail.len() / SIDE {
        for y in 0..count {
            out[narrow * y + at + x] = tail[SIDE * x + y];
        }
    }
}

/// The transpose of a square: four times, rows and those half a square below are laid into each other.
#[inline(always)]
fn turned(mut square: [[u8; SIDE]; SIDE]) -> [[u8; SIDE]; SIDE] {
    for _ in 0..4 {
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
