//! The fast Hadamard transform behind sign flips: the building block of a random rotation. Writes only
//! `values`.
//!
//! Strides are taken in ascending order, so every sum has the same two terms at every level. Fino and
//! Algazi, "Unified matrix treatment of the fast Walsh-Hadamard transform" (1976).

use crate::lanes::{LANES, Simd};

/// Values that one pass keeps in registers.
const GROUP: usize = 2 * LANES;

/// Multiplies value by factor, then transforms in place. The length is a power of two and at least
/// [`GROUP`].
#[inline(always)]
pub(crate) fn signed_transform<S: Simd, const N: usize>(
    simd: S,
    values: &mut [f32],
    factors: &[f32],
) {
    let (groups, _) = values.as_chunks_mut::<GROUP>();
    let (factor_groups, _) = factors.as_chunks::<GROUP>();
    for (group, factors) in groups.iter_mut().zip(factor_groups) {
        first_strides::<S, N>(simd, group, factors);
    }
    let mut stride = GROUP;
    while stride < values.len() {
        if 2 * stride < values.len() {
            two_strides::<S, N>(simd, values, stride);
            stride *= 4;
        } else {
            one_stride::<S, N>(simd, values, stride);
            stride *= 2;
        }
    }
}

/// Strides below [`GROUP`].
#[inline(always)]
fn first_strides<S: Simd, const N: usize>(
    simd: S,
    group: &mut [f32; GROUP],
    factors: &[f32; GROUP],
) {
    let (blocks, _) = group.as_chunks_mut::<LANES>();
    let (factor_blocks, _) = factors.as_chunks::<LANES>();
    let mut parts = [[simd.zero(); N]; 2];
    for half in 0..2 {
        for part in 0..N {
            let (value, factor) = (
                simd.load(&blocks[half], part),
                simd.load(&factor_blocks[half], part),
            );
            parts[half][part] = simd.hadamard(simd.mul(value, factor));
        }
        let mut stride = 1;
        while stride < N {
            for part in 0..N {
                if part & stride == 0 {
                    let (a, b) = (parts[half][part], parts[half][part + stride]);
                    parts[half][part] = simd.add(a, b);
                    parts[half][part + stride] = simd.sub(a, b);
                }
            }
            stride *= 2;
        }
    }
    for part in 0..N {
        let (a, b) = (parts[0][part], parts[1][part]);
        simd.store(simd.add(a, b), &mut blocks[0], part);
        simd.store(simd.sub(a, b), &mut blocks[1], part);
    }
}

/// `stride`, then twice `stride`, in one pass over memory.
#[inline(always)]
fn two_strides<S: Simd, const N: usize>(simd: S, values: &mut [f32], stride: usize) {
    for group in values.chunks_exact_mut(4 * stride) {
        let (low, high) = group.split_at_mut(2 * stride);
        let (a, b) = low.split_at_mut(stride);
        let (c, d) = high.split_at_mut(stride);
        let blocks = a.as_chunks_mut::<LANES>().0.iter_mut();
        let blocks = blocks.zip(b.as_chunks_mut::<LANES>().0);
        let blocks = blocks.zip(c.as_chunks_mut::<LANES>().0);
        let blocks = blocks.zip(d.as_chunks_mut::<LANES>().0);
        for (((a, b), c), d) in blocks {
            for part in 0..N {
                let (low, high) = (simd.load(a, part), simd.load(b, part));
                let (a_part, b_part) = (simd.add(low, high), simd.sub(low, high));
                let (low, high) = (simd.load(c, part), simd.load(d, part));
                let (c_part, d_part) = (simd.add(low, high), simd.sub(low, high));
                simd.store(simd.add(a_part, c_part), a, part);
                simd.store(simd.add(b_part, d_part), b, part);
                simd.store(simd.sub(a_part, c_part), c, part);
                simd.store(simd.sub(b_part, d_part), d, part);
            }
        }
    }
}

#[inline(always)]
fn one_stride<S: Simd, const N: usize>(simd: S, values: &mut [f32], stride: usize) {
    for group in values.chunks_exact_mut(2 * stride) {
        let (a, b) = group.split_at_mut(stride);
        let blocks = a.as_chunks_mut::<LANES>().0.iter_mut();
        for (a, b) in blocks.zip(b.as_chunks_mut::<LANES>().0) {
            for part in 0..N {
                let (low, high) = (simd.load(a, part), simd.load(b, part));
                simd.store(simd.add(low, high), a, part);
                simd.store(simd.sub(low, high), b, part);
            }
        }
    }
}
