//! Estimates of a query's distances to all neighbours of a graph node, from 1-bit codes by table look-up, and the making of
//! tables and codes. Touches nothing but its arguments.
//!
//! The codes are RaBitQ's (Gao and Long, SIGMOD 2024, arXiv 2405.12497): the signs of a vector. Signs of four dimensions are
//! a nibble that selects one of 16 bytes of the query's table (André et al., Quick ADC, ICMR 2017), so that one shuffle looks
//! up 16 neighbours. Where `groups` is the number of fours, byte `16 g + i` of a *plane* of 16 neighbours holds, of
//! neighbour `i`, the nibble of group `g` in its low half and that of group `groups / 2 + g` in its high half.

use half::f16;

use crate::lanes::{LANES, Simd};

/// Dimensions must be a multiple of this, so that every instruction set sees whole registers.
pub const CODE_DIMS: usize = 64;

/// Neighbours of one plane of codes.
pub const PLANE: usize = 16;

/// A table's entries are at most this, so that two of them add up in a byte.
pub(crate) const MOST: f32 = 127.0;

/// What a query's table stands for: the sum of its entries for the signs `s` of a vector is about
/// `(<query, s> - shift) / step`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct TableScale {
    /// Inner product for one unit of a sum of entries.
    pub step: f32,
    /// Inner product where the sum is 0.
    pub shift: f32,
}

/// Sums over the residual of two vectors, `to - from`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Residual {
    /// Squared length.
    pub squares: f32,
    /// Sum of magnitudes.
    pub magnitudes: f32,
    /// Inner product of `from` with the residual's signs.
    pub along: f32,
}

/// The estimates of up to 32 neighbours, and a mask of those below `limit`.
///
/// Estimate `i` is `base + centres[i] - slopes[i] * (step * sum[i] + shift)`.
#[inline(always)]
pub(crate) fn estimates<S: Simd, const N: usize>(
    simd: S,
    sums: &[u32; LANES],
    centres: &[f16],
    slopes: &[f16],
    terms: Terms,
    out: &mut [f32; LANES],
) -> u32 {
    let mut lanes = [0.0f32; LANES];
    for i in 0..LANES {
        // Below 2^31, so the signed conversion that the instruction sets have is the same.
        lanes[i] = sums[i].cast_signed() as f32;
    }
    let mut mask = 0;
    for part in 0..N * centres.len() / LANES {
        let sum = simd.load(&lanes, part);
        let inner = simd.mul_add(
            simd.splat(terms.scale.step),
            sum,
            simd.splat(terms.scale.shift),
        );
        let middle = simd.add(simd.splat(terms.base), simd.load_partial_f16(centres, part));
        let away = simd.sub(simd.zero(), inner);
        let estimate = simd.mul_add(simd.load_partial_f16(slopes, part), away, middle);
        mask |= simd.less(estimate, simd.splat(terms.limit)) << (part * S::WIDTH);
        simd.store(estimate, out, part);
    }
    mask
}

/// The numbers of [`estimates`] that are the same for all neighbours.
#[derive(Clone, Copy, Debug, Default)]
pub struct Terms {
    /// The query's table.
    pub scale: TableScale,
    /// Squared distance of the query to the node.
    pub base: f32,
    /// Only estimates below this are wanted.
    pub limit: f32,
}

/// Plain meaning of the look-ups: the sums of all neighbours in `codes`, plane after plane.
pub(crate) fn look_up(codes: &[u8], tables: &[u8]) -> [u32; LANES] {
    let half = tables.len() / 32;
    let mut sums = [0; LANES];
    for (plane, codes) in codes.chunks_exact(PLANE * half).enumerate() {
        for (group, bytes) in codes.as_chunks::<PLANE>().0.iter().enumerate() {
            for (i, &byte) in bytes.iter().enumerate() {
                let low = tables[16 * group + usize::from(byte & 15)];
                let high = tables[16 * (half + group) + usize::from(byte >> 4)];
                sums[PLANE * plane + i] += u32::from(low) + u32::from(high);
            }
        }
    }
    sums
}

/// Fills the table of a query: entry `n` of a group sums the rounded magnitudes of the dimensions whose bit in `n` agrees
/// with the query's sign.
#[inline(always)]
pub(crate) fn tables(query: &[f32], out: &mut [u8]) -> TableScale {
    const GROUPS: usize = CODE_DIMS / 4;
    let mut mosts = [0.0f32; GROUPS];
    for values in query.as_chunks::<CODE_DIMS>().0 {
        for (most, four) in mosts.iter_mut().zip(values.as_chunks::<4>().0) {
            let sum = (four[0].abs() + four[1].abs()) + (four[2].abs() + four[3].abs());
            *most = if sum > *most { sum } else { *most };
        }
    }
    let mut most = 0.0f32;
    for of_lane in mosts {
        most = if of_lane > most { of_lane } else { most };
    }
    // Four roundings up by half each must not pass the greatest entry.
    let per_unit = if most > 0.0 { (MOST - 2.0) / most } else { 0.0 };
    let mut sum = 0u32;
    // In blocks and in two passes, as compilers turn each into vectors but not both at once.
    for (values, entries) in query
        .as_chunks::<CODE_DIMS>()
        .0
        .iter()
        .zip(out.as_chunks_mut::<{ 4 * CODE_DIMS }>().0)
    {
        // What a dimension adds where its bit is set, and where it is not.
        let (mut set, mut unset) = ([0u32; CODE_DIMS], [0u32; CODE_DIMS]);
        for i in 0..CODE_DIMS {
            let rounded = whole(values[i].abs() * per_unit).cast_unsigned();
            set[i] = if values[i] < 0.0 { 0 } else { rounded };
            unset[i] = rounded - set[i];
            sum += rounded;
        }
        let groups = set.as_chunks::<4>().0.iter().zip(unset.as_chunks::<4>().0);
        for ((set, unset), entries) in groups.zip(entries.as_chunks_mut::<16>().0) {
            // Four entries are a word: its bytes differ in the lower two bits, words in the upper two.
            let bytes = 0x0100_0100 * set[0]
                + 0x0001_0001 * unset[0]
                + 0x0101_0000 * set[1]
                + 0x0000_0101 * unset[1];
            for (word, entries) in entries.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                let third = if word & 1 == 1 { set[2] } else { unset[2] };
                let fourth = if word & 2 == 2 { set[3] } else { unset[3] };
                *entries = (bytes + 0x0101_0101 * (third + fourth)).to_le_bytes();
            }
        }
    }
    let unit = if most > 0.0 { most / (MOST - 2.0) } else { 0.0 };
    TableScale {
        step: 2.0 * unit,
        shift: -unit * sum as f32,
    }
}

/// The nearest whole number, ties to even, of numbers below 2^22, in a form that compilers turn into vectors.
#[inline(always)]
fn whole(x: f32) -> i32 {
    const ROUNDER: f32 = 12_582_912.0;
    (x + ROUNDER).to_bits().cast_signed() - ROUNDER.to_bits().cast_signed()
}

/// Rounds a vector to whole numbers of at most `widest`; returns what a unit of them is worth.
#[inline(always)]
pub(crate) fn to_i16(values: &[f32], widest: f32, out: &mut [i16]) -> f32 {
    let mut mosts = [0.0f32; LANES];
    for block in values.as_chunks::<LANES>().0 {
        for (most, value) in mosts.iter_mut().zip(block) {
            *most = if value.abs() > *most {
                value.abs()
            } else {
                *most
            };
        }
    }
    let mut most = 0.0f32;
    for of_lane in mosts {
        most = if of_lane > most { of_lane } else { most };
    }
    let per_unit = if most > 0.0 { widest / most } else { 0.0 };
    for (out, value) in out.iter_mut().zip(values) {
        *out = whole(value * per_unit) as i16;
    }
    if per_unit > 0.0 { 1.0 / per_unit } else { 0.0 }
}

/// Signs and sums of `to - from`; bit `i % 8` of `signs[i / 8]` is set where term `i` is not negative. Terms are kept in
/// 32 lanes and added up as all sums are, by plain operations that every instruction set rounds alike.
#[inline(always)]
pub(crate) fn residual(from: &[f32], to: &[f32], signs: &mut [u8]) -> Residual {
    let mut sums = [[0.0f32; LANES]; 3];
    let blocks = from
        .as_chunks::<LANES>()
        .0
        .iter()
        .zip(to.as_chunks::<LANES>().0);
    for ((from, to), signs) in blocks.zip(signs.as_chunks_mut::<4>().0) {
        let mut positive = [false; LANES];
        for i in 0..LANES {
            let difference = to[i] - from[i];
            positive[i] = difference >= 0.0;
            sums[0][i] += difference * difference;
            sums[1][i] += difference.abs();
            sums[2][i] += if positive[i] { from[i] } else { -from[i] };
        }
        let mut word = 0u32;
        for i in 0..LANES {
            word |= u32::from(positive[i]) << i;
        }
        *signs = word.to_le_bytes();
    }
    let [squares, magnitudes, along] = sums.map(|mut lanes| {
        let mut width = LANES / 2;
        while width > 0 {
            for i in 0..width {
                lanes[i] += lanes[i + width];
            }
            width /= 2;
        }
        lanes[0]
    });
    Residual {
        squares,
        magnitudes,
        along,
    }
}
