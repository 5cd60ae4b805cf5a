//! All pairs of rows whose cosine or inner product reaches a threshold, exactly.
//!
//! Every pair is scored, block against block, in parallel over the blocks; memory is bounded by the pairs found.

use rayon::prelude::*;

use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::pool::{Control, Pool};

/// Rows that are scored against each other while they lie in the cache.
const BLOCK: usize = 64;

/// A pair of rows, the lower first, and its score.
pub type Pair = (u32, u32, f32);

/// Every unordered pair of rows of `vectors` (row-major, `dim` columns) with a score of at least `threshold`, sorted by
/// rows. Rows are brought to unit length under cosine.
///
/// # Errors
/// [`Error::Input`] for a row that the metric cannot score, [`Error::Cancelled`].
pub fn join(
    mut vectors: Vec<f32>,
    dim: usize,
    metric: Metric,
    threshold: f32,
    threads: usize,
    pool: &Pool,
    control: &Control,
) -> Result<Vec<Pair>> {
    if !threshold.is_finite() {
        return Err(Error::input(
            "threshold is not a finite number; give the lowest score to report",
        ));
    }
    for (at, row) in vectors.chunks_exact_mut(dim.max(1)).enumerate() {
        metric.prepare(row, "vectors", at)?;
    }
    let vectors = &vectors;
    let count = vectors.len() / dim.max(1);
    let blocks = count.div_ceil(BLOCK);
    control.expect(blocks);
    let block = |i: usize| &vectors[i * BLOCK * dim..((i + 1) * BLOCK).min(count) * dim];
    let of_block = |i: usize| -> Result<Vec<Pair>> {
        let mut pairs = Vec::new();
        let mut scores = vec![0.0; BLOCK * BLOCK];
        for j in i..blocks {
            control.check()?;
            let (left, right) = (block(i), block(j));
            let (rows, columns) = (left.len() / dim, right.len() / dim);
            let scores = &mut scores[..rows * columns];
            match metric {
                Metric::L2 => osler_kernels::l2_tile(left, right, dim, scores),
                _ => osler_kernels::dot_tile(left, right, dim, scores),
            }
            for (a, line) in scores.chunks_exact(columns).enumerate() {
                for (b, &score) in line.iter().enumerate() {
                    let (a, b) = ((i * BLOCK + a) as u32, (j * BLOCK + b) as u32);
                    let score = metric.presented(if metric == Metric::L2 { -score } else { score });
                    if a < b && score >= threshold {
                        pairs.push((a, b, score));
                    }
                }
            }
        }
        control.advance(1);
        Ok(pairs)
    };
    let mut pairs: Vec<Pair> = if threads == 1 {
        (0..blocks)
            .map(of_block)
            .collect::<Result<Vec<_>>>()?
            .concat()
    } else {
        pool.run(threads, || {
            (0..blocks)
                .into_par_iter()
                .map(of_block)
                .collect::<Result<Vec<_>>>()
        })?
        .concat()
    };
    pairs.sort_unstable_by_key(|&(a, b, _)| (a, b));
    Ok(pairs)
}
