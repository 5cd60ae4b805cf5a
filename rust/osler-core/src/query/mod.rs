//! One search over a snapshot: queries in, answers out, on one thread or many.
//!
//! `plan` chooses the way, `answer` goes it.

mod answer;
mod plan;

use rayon::prelude::*;

use self::answer::Out;
pub(crate) use self::answer::{settle, walk};
pub(crate) use self::plan::cost_of_walk;
use self::plan::{Plan, Way};
use crate::error::{Error, Result};
use crate::exact;
use crate::graph::scratch::Scratches;
use crate::group::GroupId;
use crate::keys::RESERVED;
use crate::pool::{Control, Pool};
use crate::select::RowSet;
use crate::state::State;

/// Queries that are scanned together, so that a row is read once for all of them.
const SCAN_TOGETHER: usize = 256;

/// Queries that walk in one task.
const WALK_TOGETHER: usize = 16;

/// Results are padded to k columns; more numbers than this are refused rather than allocated.
const MAX_RESULTS: usize = 1 << 31;

/// What every query of a call asks for.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Hits wanted.
    pub k: usize,
    /// Share of the exact answer wanted, in (0, 1].
    pub recall: f32,
    /// Width of the beam, instead of the one that calibration gives.
    pub ef: Option<usize>,
    /// Whether to score every row.
    pub exact: bool,
    /// Rows that may be returned, in today's numbering; None: all live ones.
    pub allowed: Option<&'a RowSet>,
    /// Group of each row and how many hits of one group are returned; None: no limit.
    pub limit: Option<(&'a [GroupId], usize)>,
    /// Group of each row, and the one that each query excludes.
    pub exclude: Option<(&'a [GroupId], &'a [GroupId])>,
}

/// The answers to `m` queries, row by row, padded to k columns.
#[derive(Debug, Default)]
pub struct Answers {
    /// Keys; [`RESERVED`] where there is no hit.
    pub keys: Vec<u64>,
    /// Scores; minus infinity where there is no hit.
    pub scores: Vec<f32>,
    /// Hits of each query.
    pub counts: Vec<i64>,
}

/// How many results `count` queries have with k columns each.
pub(crate) fn cells(count: usize, k: usize) -> Result<usize> {
    count.checked_mul(k).filter(|&cells| cells <= MAX_RESULTS).ok_or_else(|| {
        Error::input(format!("{count} queries with k = {k} are too many results for one call; lower k or split the batch"))
    })
}

pub(crate) fn filled<T: Clone>(count: usize, value: T) -> Result<Vec<T>> {
    let mut all = Vec::new();
    all.try_reserve_exact(count)
        .map_err(|_| Error::Memory(count * size_of::<T>()))?;
    all.resize(count, value);
    Ok(all)
}

/// Answers prepared queries (row-major).
///
/// # Errors
/// [`Error::Input`] for options that make no sense, [`Error::Corrupt`] where a file is damaged, [`Error::Cancelled`].
pub fn search(
    state: &State,
    queries: &[f32],
    ask: Ask<'_>,
    threads: usize,
    pool: &Pool,
    scratches: &Scratches,
    control: &Control,
) -> Result<Answers> {
    let plan = Plan::new(state, ask)?;
    let (k, dim) = (ask.k, state.params.dim);
    let count = queries.len() / dim;
    let cells = cells(count, k)?;
    let mut answers = Answers {
        keys: filled(cells, RESERVED)?,
        scores: filled(cells, f32::NEG_INFINITY)?,
        counts: vec![0; count],
    };
    control.expect(count);
    let step = |first: usize, queries: &[f32], mut out: Out<'_>| -> Result<()> {
        control.check()?;
        scratches.with(|scratch| plan.answer(queries, first, scratch, &mut out))?;
        control.advance(out.counts.len());
        Ok(())
    };
    if count == 1 {
        step(
            0,
            queries,
            Out {
                keys: &mut answers.keys,
                scores: &mut answers.scores,
                counts: &mut answers.counts,
            },
        )?;
        return Ok(answers);
    }
    let together = match plan.way {
        Way::Exact => SCAN_TOGETHER,
        _ => WALK_TOGETHER,
    };
    let together = together.min(count.div_ceil(threads)).max(1);
    let cells = together * k;
    let parts = queries
        .par_chunks(together * dim)
        .zip(answers.keys.par_chunks_mut(cells))
        .zip(answers.scores.par_chunks_mut(cells))
        .zip(answers.counts.par_chunks_mut(together))
        .enumerate();
    pool.run(threads, || {
        parts.try_for_each(|(i, (((queries, keys), scores), counts))| {
            step(
                i * together,
                queries,
                Out {
                    keys,
                    scores,
                    counts,
                },
            )
        })
    })?;
    Ok(answers)
}

/// All rows that score at least `threshold`, for each prepared query: keys and scores, best first.
///
/// # Errors
/// [`Error::Input`] for a threshold that is no number, [`Error::Corrupt`], [`Error::Cancelled`].
pub fn search_range(
    state: &State,
    queries: &[f32],
    threshold: f32,
    allowed: Option<&RowSet>,
    threads: usize,
    pool: &Pool,
    control: &Control,
) -> Result<Vec<Vec<(u64, f32)>>> {
    if threshold.is_nan() {
        return Err(Error::input(
            "threshold is not a number; give the lowest score to return",
        ));
    }
    let metric = state.params.metric;
    control.expect(queries.len() / state.params.dim);
    let answer = |query: &[f32]| -> Result<Vec<(u64, f32)>> {
        control.check()?;
        let probe = state.probe(query);
        let found = match allowed {
            Some(allowed) => exact::above(&probe, allowed.iter(), threshold)?,
            None => exact::above(&probe, state.live_rows(), threshold)?,
        };
        control.advance(1);
        found
            .into_iter()
            .map(|e| Ok((state.keys.key(e.row())?, metric.presented(e.score()))))
            .collect()
    };
    pool.run(threads, || {
        queries.par_chunks(state.params.dim).map(answer).collect()
    })
}
