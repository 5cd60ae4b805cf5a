//! Every query of a block against every row of a block. Writes only `out`.
//!
//! Groups of `Q` queries and `R` rows share what they load; the rest is done in smaller groups. A
//! pair's sum does not depend on the group it was computed in (see [`pairs`]). `G` registers of the 32
//! lanes are carried through a full group at once, `G1` of them for a single query.

use crate::lanes::{Element, Simd, Term, pairs};

/// Bytes of queries that are worked on before the next ones: about half of a core's second cache.
const QUERY_BYTES: usize = 256 * 1024;

#[inline(always)]
pub(crate) fn tile<
    S: Simd,
    O: Term,
    T: Element,
    const N: usize,
    const G: usize,
    const G1: usize,
    const Q: usize,
    const R: usize,
>(
    simd: S,
    queries: &[f32],
    rows: &[T],
    dim: usize,
    out: &mut [f32],
) {
    let row_count = rows.len() / dim;
    let block = (QUERY_BYTES / (dim * size_of::<f32>()))
        .max(1)
        .next_multiple_of(Q);
    for (queries, out) in queries
        .chunks(block * dim)
        .zip(out.chunks_mut(block * row_count.max(1)))
    {
        let mut row = 0;
        while row + R <= row_count {
            columns::<S, O, T, N, G, G1, Q, R>(simd, queries, rows, dim, row, row_count, out);
            row += R;
        }
        while row < row_count {
            columns::<S, O, T, N, G, G1, Q, 1>(simd, queries, rows, dim, row, row_count, out);
            row += 1;
        }
    }
}

/// All queries against rows `row .. row + R`.
#[inline(always)]
fn columns<
    S: Simd,
    O: Term,
    T: Element,
    const N: usize,
    const G: usize,
    const G1: usize,
    const Q: usize,
    const R: usize,
>(
    simd: S,
    queries: &[f32],
    rows: &[T],
    dim: usize,
    row: usize,
    row_count: usize,
    out: &mut [f32],
) {
    let mut group: [&[T]; R] = [&[]; R];
    for r in 0..R {
        group[r] = &rows[(row + r) * dim..][..dim];
    }
    let query_count = queries.len() / dim;
    let mut query = 0;
    while query + Q <= query_count {
        let mut some: [&[f32]; Q] = [&[]; Q];
        for q in 0..Q {
            some[q] = &queries[(query + q) * dim..][..dim];
        }
        let sums = pairs::<S, O, T, N, G, Q, R>(simd, some, group);
        for q in 0..Q {
            out[(query + q) * row_count + row..][..R].copy_from_slice(&sums[q]);
        }
        query += Q;
    }
    while query < query_count {
        let one = [&queries[query * dim..][..dim]];
        let sums = pairs::<S, O, T, N, G1, 1, R>(simd, one, group);
        out[query * row_count + row..][..R].copy_from_slice(&sums[0]);
        query += 1;
    }
}
