//! What codes are scored with: one vector against many columns, and the shape of a look-up scan. Writes
//! only `out`.
//!
//! A scan adds up, for 32 rows at once, bytes looked up by 4-bit codes, as in Andre, Kermarrec and Le
//! Scouarnec, "Cache locality is not enough: high-performance nearest neighbor search with product
//! quantization fast scan" (2015). Its loops are integer instructions of each set, beside the others.

use crate::lanes::{LANES, Simd};

/// Rows of one scan.
pub(crate) const ROWS: usize = 32;

/// Bytes of one group: a table of 16 entries; or the codes of 32 rows, of which a byte's low half is
/// one of the first 16, its high half the one 16 rows behind.
pub(crate) const GROUP: usize = 16;

/// Groups whose bytes fit 16 bits when added.
pub(crate) const RUN_GROUPS: usize = 256;

/// One value of `out` for each column: its start, then value by value a fused multiply-add.
#[inline(always)]
pub(crate) fn columns<S: Simd, const N: usize>(
    simd: S,
    vector: &[f32],
    columns: &[f32],
    starts: &[f32],
    out: &mut [f32],
) {
    let count = out.len();
    let whole = count - count % LANES;
    let mut first = 0;
    while first < whole {
        let mut sums = [simd.zero(); N];
        let start = block(starts, first);
        for part in 0..N {
            sums[part] = simd.load(start, part);
        }
        let mut place = first;
        for &value in vector {
            let value = simd.splat(value);
            let row = block(columns, place);
            for part in 0..N {
                sums[part] = simd.mul_add(value, simd.load(row, part), sums[part]);
            }
            place += count;
        }
        let (out, _) = out[first..].as_chunks_mut::<LANES>();
        for part in 0..N {
            simd.store(sums[part], &mut out[0], part);
        }
        first += LANES;
    }
    if whole < count {
        let rest = count - whole;
        let mut last = [0.0; LANES];
        for part in 0..N {
            if part * S::WIDTH < rest {
                let mut sum = simd.load_partial(&starts[whole..], part);
                let mut place = whole;
                for &value in vector {
                    let row = simd.load_partial(&columns[place..place + rest], part);
                    sum = simd.mul_add(simd.splat(value), row, sum);
                    place += count;
                }
                simd.store(sum, &mut last, part);
            }
        }
        out[whole..].copy_from_slice(&last[..rest]);
    }
}

#[inline(always)]
fn block(values: &[f32], first: usize) -> &[f32; LANES] {
    &values[first..].as_chunks::<LANES>().0[0]
}

/// The first position of the greatest value. Plain code: compiled for a wide instruction set, the
/// compiler's own vectors are good.
#[inline(always)]
pub(crate) fn position_of_max(values: &[f32]) -> usize {
    let (blocks, tail) = values.as_chunks::<LANES>();
    let mut lanes = [f32::NEG_INFINITY; LANES];
    for block in blocks {
        for i in 0..LANES {
            lanes[i] = if block[i] > lanes[i] {
                block[i]
            } else {
                lanes[i]
            };
        }
    }
    let mut greatest = f32::NEG_INFINITY;
    for &value in lanes.iter().chain(tail) {
        greatest = if value > greatest { value } else { greatest };
    }
    for (i, block) in blocks.iter().enumerate() {
        let mut found = false;
        for &value in block {
            found |= value == greatest;
        }
        if found {
            return LANES * i + first_equal(block, greatest);
        }
    }
    values.len() - tail.len() + first_equal(tail, greatest)
}

#[inline(always)]
fn first_equal(values: &[f32], wanted: f32) -> usize {
    let equal = |&value: &f32| value == wanted;
    values.iter().position(equal).unwrap_or(0)
}
