//! Every row of a block against slivers of 32 rows that are stored dimension by dimension, one row a lane. Writes only `out`.
//!
//! A sum never leaves its lane, so nothing is added across lanes at the end: for the short vectors of a filter that is
//! what a [`tile`](crate::tile) would spend its time on. The layout is that of the packed operand of a matrix product
//! (Goto and van de Geijn, "Anatomy of high-performance matrix multiplication", TOMS 2008).

use crate::lanes::{LANES, Simd};

/// Rows of one sliver: value `d` of row `i` is at `d * SLIVER + i`.
pub const SLIVER: usize = LANES;

/// Where the sums of one row with one sliver go: the rows' number, the sliver's number and the sums' registers.
trait Finish<S: Simd, const N: usize> {
    fn take(&mut self, row: usize, sliver: usize, sums: [S::Part; N]);
}

struct Store<'a, S> {
    simd: S,
    slivers: usize,
    out: &'a mut [f32],
}

impl<S: Simd, const N: usize> Finish<S, N> for Store<'_, S> {
    #[inline(always)]
    fn take(&mut self, row: usize, sliver: usize, sums: [S::Part; N]) {
        let place = &mut self.out[(row * self.slivers + sliver) * SLIVER..];
        if let Some(block) = place.first_chunk_mut() {
            for part in 0..N {
                self.simd.store(sums[part], block, part);
            }
        }
    }
}

struct Compare<'a, S: Simd> {
    simd: S,
    slivers: usize,
    floor: S::Part,
    out: &'a mut [u32],
}

impl<S: Simd, const N: usize> Finish<S, N> for Compare<'_, S> {
    #[inline(always)]
    fn take(&mut self, row: usize, sliver: usize, sums: [S::Part; N]) {
        let mut below = 0;
        for part in 0..N {
            below |= self.simd.less(sums[part], self.floor) << (part * S::WIDTH);
        }
        self.out[row * self.slivers + sliver] = !below;
    }
}

/// Sums that begin with the sliver's terms: one value for each row, sliver and lane.
#[inline(always)]
pub(crate) fn sums<S: Simd, const N: usize, const Q: usize>(
    simd: S,
    rows: &[f32],
    slivers: &[f32],
    terms: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let count = terms.len() / SLIVER;
    let mut store = Store {
        simd,
        slivers: count,
        out,
    };
    every::<S, _, N, Q>(simd, rows, None, slivers, terms, dim, &mut store);
}

/// Which sums are not below `floor`, as one mask for each row and sliver; sums begin with the sliver's terms plus the row's.
#[inline(always)]
pub(crate) fn reach<S: Simd, const N: usize, const Q: usize>(
    simd: S,
    [rows, row_terms]: [&[f32]; 2],
    [slivers, terms]: [&[f32]; 2],
    floor: f32,
    dim: usize,
    out: &mut [u32],
) {
    let mut compare = Compare {
        simd,
        slivers: terms.len() / SLIVER,
        floor: simd.splat(floor),
        out,
    };
    every::<S, _, N, Q>(
        simd,
        rows,
        Some(row_terms),
        slivers,
        terms,
        dim,
        &mut compare,
    );
}

#[inline(always)]
fn every<S: Simd, F: Finish<S, N>, const N: usize, const Q: usize>(
    simd: S,
    rows: &[f32],
    row_terms: Option<&[f32]>,
    slivers: &[f32],
    terms: &[f32],
    dim: usize,
    finish: &mut F,
) {
    let count = rows.len() / dim;
    let terms = terms.as_chunks::<SLIVER>().0;
    for (number, (sliver, terms)) in slivers.chunks_exact(dim * SLIVER).zip(terms).enumerate() {
        let sliver = sliver.as_chunks::<SLIVER>().0;
        let mut row = 0;
        while row + Q <= count {
            group::<S, F, N, Q>(simd, rows, row_terms, sliver, terms, row, number, finish);
            row += Q;
        }
        while row + 2 <= count {
            group::<S, F, N, 2>(simd, rows, row_terms, sliver, terms, row, number, finish);
            row += 2;
        }
        if row < count {
            group::<S, F, N, 1>(simd, rows, row_terms, sliver, terms, row, number, finish);
        }
    }
}

/// Rows `first .. first + Q` against one sliver, which has one block a dimension.
#[allow(
    clippy::too_many_arguments,
    reason = "one loop body, apart only for its row count"
)]
#[inline(always)]
fn group<S: Simd, F: Finish<S, N>, const N: usize, const Q: usize>(
    simd: S,
    rows: &[f32],
    row_terms: Option<&[f32]>,
    sliver: &[[f32; SLIVER]],
    terms: &[f32; SLIVER],
    first: usize,
    number: usize,
    finish: &mut F,
) {
    let dim = sliver.len();
    let mut group: [&[f32]; Q] = [&[]; Q];
    let mut sums = [[simd.zero(); N]; Q];
    for q in 0..Q {
        group[q] = &rows[(first + q) * dim..][..dim];
        for part in 0..N {
            sums[q][part] = simd.load(terms, part);
            if let Some(row_terms) = row_terms {
                sums[q][part] = simd.add(sums[q][part], simd.splat(row_terms[first + q]));
            }
        }
    }
    for (d, block) in sliver.iter().enumerate() {
        let mut loaded = [simd.zero(); N];
        for part in 0..N {
            loaded[part] = simd.load(block, part);
        }
        for q in 0..Q {
            // SAFETY: every row of the group was cut to `sliver.len()` values above, and `d` is below that.
            let value = simd.splat(unsafe { *group[q].get_unchecked(d) });
            for part in 0..N {
                sums[q][part] = simd.mul_add(value, loaded[part], sums[q][part]);
            }
        }
    }
    for q in 0..Q {
        finish.take(first + q, number, sums[q]);
    }
}
