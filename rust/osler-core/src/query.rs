//! One search over a snapshot: which rows may be returned, and whether to walk the graph or to scan.
//!
//! Costs are counted in rows scored, never timed. Allocates in `Scratch` and in the caller's results.

use rayon::prelude::*;

use crate::error::{Error, Read, Result};
use crate::exact;
use crate::graph::{M, search};
use crate::group::{GroupId, Grouping, NO_GROUP};
use crate::keys::RESERVED;
use crate::pool::{Control, Pool};
use crate::queue::{Entry, GroupedTop, Many, Top};
use crate::scratch::{Scratch, Scratches};
use crate::select::RowSet;
use crate::state::{EXACT_BELOW, State};
use crate::vectors::Probe;

/// Queries that are scanned together, so that a row is read once for all of them.
const SCAN_TOGETHER: usize = 16;

/// From this k on a sorted list costs more than sorting once at the end.
const MANY: usize = 512;

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

/// A call's options, checked against a snapshot.
struct Plan<'a> {
    state: &'a State,
    ask: Ask<'a>,
    /// Rows that may be returned.
    candidates: usize,
    /// Width of the beam; None: scan.
    width: Option<usize>,
}

impl<'a> Plan<'a> {
    fn new(state: &'a State, ask: Ask<'a>) -> Result<Self> {
        if ask.k == 0 {
            return Err(Error::input("k is 0; ask for at least 1 hit"));
        }
        if ask.ef == Some(0) {
            return Err(Error::input(
                "ef is 0; it is the number of candidates a walk keeps, at least k",
            ));
        }
        if !(ask.recall > 0.0 && ask.recall <= 1.0) {
            return Err(Error::input(format!(
                "recall is {}; it is a share above 0 and at most 1",
                ask.recall
            )));
        }
        for groups in [ask.limit.map(|l| l.0), ask.exclude.map(|e| e.0)]
            .into_iter()
            .flatten()
        {
            let outside = groups.len() as u32..state.rows() as u32;
            if outside.into_iter().any(|row| state.is_live(row)) {
                return Err(Error::input(
                    "rows were added after these groups were prepared; prepare them again",
                ));
            }
        }
        if ask.limit.is_some_and(|(_, size)| size == 0) {
            return Err(Error::input(
                "group_size is 0; use at least 1, or None for no limit",
            ));
        }
        let candidates = ask.allowed.map_or(state.live(), RowSet::count);
        Ok(Plan {
            state,
            ask,
            candidates,
            width: Self::width(state, &ask, candidates),
        })
    }

    fn width(state: &State, ask: &Ask<'_>, candidates: usize) -> Option<usize> {
        let rows = state.rows();
        if ask.exact || state.live() < EXACT_BELOW || state.graph.is_none() {
            return None;
        }
        let ef = match ask.ef {
            Some(ef) => ef.max(ask.k),
            None if ask.recall >= 1.0 => return None,
            None => state.calibration.as_ref()?.width(ask.k, ask.recall)?,
        };
        let ef = ef.min(rows);
        // A walk that keeps ef candidates scores about M new rows for each one it expands, and has to expand n / c times
        // as many where only c of n rows are accepted. A scan scores each accepted row once.
        let walk = (ef * M) as f64 * rows as f64 / candidates.max(1) as f64;
        (walk < candidates as f64).then_some(ef)
    }

    fn grouping(&self, query: usize) -> Grouping<'a> {
        let exclude = self
            .ask
            .exclude
            .map(|(groups, ids)| (groups, ids[query]))
            .filter(|&(_, id)| id != NO_GROUP);
        Grouping {
            limit: self.ask.limit,
            exclude,
        }
    }

    fn accepts(&self, row: u32, grouping: &Grouping<'_>) -> bool {
        let selected = match self.ask.allowed {
            Some(allowed) => allowed.contains(row),
            None => self.state.is_live(row),
        };
        selected && !grouping.excludes(row)
    }

    /// Walks the graph; false if a scan has to answer instead.
    fn walk(
        &self,
        probe: &Probe<'_>,
        query: usize,
        ef: usize,
        scratch: &mut Scratch,
        found: &mut Vec<Entry>,
    ) -> Read<bool> {
        let Some(graph) = &self.state.graph else {
            return Ok(false);
        };
        let Some(start) = graph.start(probe)? else {
            return Ok(false);
        };
        let grouping = self.grouping(query);
        let plain =
            self.ask.allowed.is_none() && self.state.dead == 0 && grouping.exclude.is_none();
        if plain && grouping.limit.is_none() {
            search::beam(&graph.base(), probe, &[start], ef, scratch)?;
            found.extend(scratch.beam.entries().take(self.ask.k));
            return Ok(found.len() >= self.ask.k.min(self.candidates));
        }
        let accept = |row| self.accepts(row, &grouping);
        let limits = search::Limits {
            budget: self.candidates,
            absent: &[],
        };
        let done = match grouping.limit {
            Some((groups, size)) => {
                let mut top = GroupedTop::new(ef, size, groups);
                let done =
                    search::filtered(graph, probe, start, accept, &mut top, limits, scratch)?;
                found.extend(top.entries().take(self.ask.k));
                done
            }
            None => {
                let mut top = std::mem::take(&mut scratch.top);
                top.reset(ef);
                let done = search::filtered(graph, probe, start, accept, &mut top, limits, scratch);
                found.extend(top.entries().iter().take(self.ask.k));
                scratch.top = top;
                done?
            }
        };
        // A walk that found fewer than k cannot tell whether there are more.
        Ok(done && found.len() >= self.ask.k)
    }

    fn rows(&self) -> Box<dyn Iterator<Item = u32> + 'a> {
        let state = self.state;
        match self.ask.allowed {
            Some(allowed) => Box::new(allowed.iter()),
            None if state.dead == 0 => Box::new(0..state.rows() as u32),
            None => Box::new(state.live_rows()),
        }
    }

    /// Scores every candidate for queries `first..`; the finds of each are appended to `found`.
    fn scan(&self, probes: &[Probe<'_>], first: usize, found: &mut [Vec<Entry>]) -> Read<()> {
        let k = self.ask.k.min(self.candidates.max(1));
        let groupings: Vec<Grouping<'_>> = (0..probes.len())
            .map(|i| self.grouping(first + i))
            .collect();
        let accept = |i: usize, row: u32| !groupings[i].excludes(row);
        match self.ask.limit {
            Some((groups, size)) => {
                let mut tops: Vec<_> = probes
                    .iter()
                    .map(|_| GroupedTop::new(k, size, groups))
                    .collect();
                exact::scan_batch(probes, self.rows(), accept, &mut tops)?;
                found
                    .iter_mut()
                    .zip(&tops)
                    .for_each(|(found, top)| found.extend(top.entries()));
            }
            None if k > MANY => {
                let mut tops: Vec<_> = probes.iter().map(|_| Many::new(k)).collect();
                exact::scan_batch(probes, self.rows(), accept, &mut tops)?;
                for (found, top) in found.iter_mut().zip(tops) {
                    *found = top.into_entries();
                }
            }
            None => {
                let mut tops: Vec<_> = probes.iter().map(|_| Top::with_capacity(k)).collect();
                exact::scan_batch(probes, self.rows(), accept, &mut tops)?;
                for (found, top) in found.iter_mut().zip(&tops) {
                    found.extend(top.entries());
                }
            }
        }
        Ok(())
    }

    /// Answers queries `first..` into slices of k columns a query.
    fn answer(
        &self,
        queries: &[f32],
        first: usize,
        scratch: &mut Scratch,
        out: &mut Out<'_>,
    ) -> Read<()> {
        let (state, k) = (self.state, self.ask.k);
        let probes: Vec<Probe<'_>> = queries
            .chunks_exact(state.params.dim)
            .map(|q| Probe::new(&state.vectors, state.params.metric, q))
            .collect();
        let mut found = vec![Vec::new(); probes.len()];
        let mut left = Vec::new();
        for (i, probe) in probes.iter().enumerate() {
            let walked = match self.width {
                Some(ef) => self.walk(probe, first + i, ef, scratch, &mut found[i])?,
                None => false,
            };
            if !walked {
                found[i].clear();
                left.push(i);
            }
        }
        if left.len() == probes.len() {
            self.scan(&probes, first, &mut found)?;
        } else {
            for i in left {
                self.scan(&probes[i..=i], first + i, &mut found[i..=i])?;
            }
        }
        for (i, hits) in found.iter().enumerate() {
            for (j, entry) in hits.iter().enumerate() {
                out.keys[i * k + j] = state.keys.key(entry.row())?;
                out.scores[i * k + j] = state.params.metric.presented(entry.score());
            }
            out.counts[i] = hits.len() as i64;
        }
        Ok(())
    }
}

struct Out<'a> {
    keys: &'a mut [u64],
    scores: &'a mut [f32],
    counts: &'a mut [i64],
}

fn filled<T: Clone>(count: usize, value: T) -> Result<Vec<T>> {
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
    let cells = count.checked_mul(k).filter(|&cells| cells <= MAX_RESULTS).ok_or_else(|| {
        Error::input(format!("{count} queries with k = {k} are too many results for one call; lower k or split the batch"))
    })?;
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
    let together = SCAN_TOGETHER.min(count.div_ceil(threads)).max(1);
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
        let probe = Probe::new(&state.vectors, metric, query);
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
