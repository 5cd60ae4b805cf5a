//! One search over a snapshot: which rows may be returned, and whether to walk the graph, to scan codes or to scan all.
//!
//! Costs are counted in rows scored, never timed. Allocates in `Scratch` and in the caller's results.

use rayon::prelude::*;

use crate::calibrate::KS;
use crate::codes::CodeTable;
use crate::error::{Error, Read, Result};
use crate::exact;
use crate::graph::Graph;
use crate::graph::scratch::{Scratch, Scratches};
use crate::graph::search::{Effort, Limits, SPARE};
use crate::group::{GroupId, Grouping, NO_GROUP};
use crate::keys::RESERVED;
use crate::pool::{Control, Pool};
use crate::quantize::Prepared;
use crate::queue::{Collect, Entry, GroupedTop, Many, Top};
use crate::select::RowSet;
use crate::state::{EXACT_BELOW, State};
use crate::vectors::{Keep, Probe};

/// Queries that are scanned together, so that a row is read once for all of them.
const SCAN_TOGETHER: usize = 256;

/// Queries that walk in one task.
const WALK_TOGETHER: usize = 16;

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
    way: Way,
}

/// What is scored before full vectors are, if anything.
#[derive(Clone, Copy)]
enum Way {
    /// Every candidate's full vector is scored.
    Exact,
    /// Every candidate's 8-bit row is scored, and the full vectors of the best.
    Scan,
    /// The graph is walked.
    Walk(Effort),
    /// All candidates' small codes are scanned, and the full vectors of the best so many are scored.
    Codes(usize),
}

/// Blocks of codes that are scanned for every query of a task while they lie in the cache.
const BLOCKS_TOGETHER: usize = 64;

/// Without full vectors a scan, which rounds, leaves so many finds to be scored by their codes.
const fn finds_to_score(k: usize) -> usize {
    2 * k + 64
}

/// A vector that is read from a file costs as much as this many in memory, at least.
const DISK: usize = 8;

/// Where group sizes are limited a scan keeps so many times the finds, and members of a group: estimates may take the wrong
/// ones first.
const GROUPED_SPARE: usize = 4;

/// Finds of a scan of 8-bit rows beside the k wanted ones, to be ordered by full vectors.
const SCAN_SPARE: usize = 22;

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
            way: Self::way(state, &ask, candidates),
        })
    }

    fn way(state: &State, ask: &Ask<'_>, candidates: usize) -> Way {
        if ask.exact || state.live() < EXACT_BELOW {
            return Way::Exact;
        }
        let ef = match ask.ef {
            Some(ef) => Some(ef.max(ask.k)),
            None if ask.recall >= 1.0 => None,
            None => state
                .calibration
                .as_ref()
                .and_then(|c| c.width(ask.k, ask.recall)),
        };
        if let Some(codes) = &state.codes {
            return Self::way_of_codes(state, codes, ask, candidates, ef);
        }
        let (Some(graph), Some(ef)) = (&state.graph, ef) else {
            return Way::Exact;
        };
        // Between the first two k that are measured, a walk for the greater of them is what was measured.
        let k = match ask.ef {
            None if ask.k > KS[0] => ask.k.max(KS[1]),
            _ => ask.k,
        };
        let effort = Effort { k, ef: ef.max(k) };
        let hops = effort.hops() * state.rows() as f64 / candidates.max(1) as f64;
        if hops < Self::scan_in_hops(graph, candidates) {
            Way::Walk(effort)
        } else {
            Way::Scan
        }
    }

    fn way_of_codes(
        state: &State,
        codes: &CodeTable,
        ask: &Ask<'_>,
        candidates: usize,
        width: Option<usize>,
    ) -> Way {
        let whole = candidates.saturating_mul(Self::vector_bytes(state));
        let width = if state.bare > 0 {
            // What codes cannot tell is nowhere else.
            finds_to_score(ask.k)
        } else {
            match width {
                Some(width) if whole > Self::code_bytes(state, codes) => {
                    Self::grown(state, ask, width)
                }
                _ => return Way::Exact,
            }
        };
        let groups = ask.limit.map_or(1, |(_, size)| size);
        let width = width.max(ask.k.saturating_mul(groups));
        if candidates <= width {
            Way::Exact
        } else {
            Way::Codes(width)
        }
    }

    /// A calibrated width for the rows of today: those that codes place before a near one grow with all rows.
    fn grown(state: &State, ask: &Ask<'_>, width: usize) -> usize {
        match &state.calibration {
            Some(calibration) if ask.ef.is_none() && state.live() > calibration.rows => {
                (width as u64 * state.live() as u64).div_ceil(calibration.rows.max(1) as u64)
                    as usize
            }
            _ => width,
        }
    }

    /// Bytes that a scan of codes reads.
    fn code_bytes(state: &State, codes: &CodeTable) -> usize {
        state.rows() * codes.quantizer().bytes()
    }

    /// About what reading a full vector costs, in bytes that are read in order.
    fn vector_bytes(state: &State) -> usize {
        let bytes = state.params.dim * state.params.codes.bytes();
        if state.params.keep == Keep::Disk {
            DISK * bytes
        } else {
            bytes
        }
    }

    /// How many hops a scan of the candidates' 8-bit rows is worth: both are bound by the memory that they read.
    fn scan_in_hops(graph: &Graph, candidates: usize) -> f64 {
        candidates as f64 * graph.row_share()
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

    /// Answers by the graph; false if every candidate's full vector has to be scored instead.
    fn by_graph(
        &self,
        probe: &Probe<'_>,
        query: usize,
        scratch: &mut Scratch,
        found: &mut Vec<Entry>,
    ) -> Read<bool> {
        let Some(graph) = &self.state.graph else {
            return Ok(false);
        };
        let grouping = self.grouping(query);
        self.state.aim(graph, probe.query(), &mut scratch.query);
        if let Way::Walk(effort) = self.way {
            let plain = self.ask.allowed.is_none()
                && self.state.dead == 0
                && grouping.exclude.is_none()
                && grouping.limit.is_none();
            let done = if plain {
                walk(self.state, graph, probe, effort, &[], scratch, found)?;
                true
            } else {
                self.collect(graph, effort, &grouping, scratch, found)?
            };
            // A walk that found fewer than k cannot tell whether there are more.
            if done && found.len() >= self.ask.k.min(self.candidates) {
                return self.settle(probe, found).map(|()| true);
            }
            found.clear();
        }
        if matches!(self.way, Way::Exact) {
            return Ok(false);
        }
        let most = self.ask.k + SCAN_SPARE;
        let rows = self.rows().filter(|&row| !grouping.excludes(row));
        match grouping.limit {
            Some((groups, size)) => {
                let mut top = GroupedTop::new(most, size, groups);
                graph.scan(rows, &mut top, scratch)?;
                found.extend(top.entries());
            }
            None if most > MANY => {
                let mut top = Many::new(most);
                graph.scan(rows, &mut top, scratch)?;
                *found = top.into_entries();
            }
            None => {
                let mut top = Top::with_capacity(most);
                graph.scan(rows, &mut top, scratch)?;
                found.extend(top.entries());
            }
        }
        self.settle(probe, found).map(|()| true)
    }

    /// Scans codes for queries `first..`; the best finds of each by full vectors are appended to `found`.
    fn by_codes(
        &self,
        codes: &CodeTable,
        width: usize,
        probes: &[Probe<'_>],
        first: usize,
        found: &mut [Vec<Entry>],
    ) -> Read<()> {
        let prepared: Vec<Prepared> = probes
            .iter()
            .map(|probe| codes.quantizer().prepare(probe.query()))
            .collect();
        match self.ask.limit {
            Some((groups, size)) => {
                let (most, of_group) = (
                    width.saturating_mul(GROUPED_SPARE),
                    size.saturating_mul(GROUPED_SPARE),
                );
                let top = || GroupedTop::new(most, of_group, groups);
                let mut tops: Vec<_> = probes.iter().map(|_| top()).collect();
                self.scan_codes(codes, &prepared, first, &mut tops)?;
                for ((probe, found), top) in probes.iter().zip(found).zip(&tops) {
                    let mut entries: Vec<Entry> = top.entries().collect();
                    settle(probe, &mut entries)?;
                    let mut best = GroupedTop::new(self.ask.k, size, groups);
                    entries.into_iter().for_each(|entry| best.offer(entry));
                    found.extend(best.entries());
                }
            }
            None if width > MANY => {
                let mut tops: Vec<_> = probes.iter().map(|_| Many::new(width)).collect();
                self.scan_codes(codes, &prepared, first, &mut tops)?;
                for ((probe, found), top) in probes.iter().zip(found).zip(tops) {
                    *found = top.into_entries();
                    self.settle(probe, found)?;
                }
            }
            None => {
                let top = || Top::with_capacity(width);
                let mut tops: Vec<_> = probes.iter().map(|_| top()).collect();
                self.scan_codes(codes, &prepared, first, &mut tops)?;
                for ((probe, found), top) in probes.iter().zip(found).zip(&tops) {
                    found.extend(top.entries());
                    self.settle(probe, found)?;
                }
            }
        }
        Ok(())
    }

    fn scan_codes(
        &self,
        codes: &CodeTable,
        prepared: &[Prepared],
        first: usize,
        tops: &mut [impl Collect],
    ) -> Read<()> {
        let state = self.state;
        let mask = |block| match self.ask.allowed {
            Some(allowed) => allowed.word32(block),
            None => !state.deleted.word32(block),
        };
        let blocks = codes.blocks().len();
        for from in (0..blocks).step_by(BLOCKS_TOGETHER) {
            let together = from..(from + BLOCKS_TOGETHER).min(blocks);
            for (i, (query, top)) in prepared.iter().zip(tops.iter_mut()).enumerate() {
                let grouping = self.grouping(first + i);
                let accept = |row| !grouping.excludes(row);
                codes.scan(together.clone(), query, mask, accept, top)?;
            }
        }
        Ok(())
    }

    /// Walks the graph for accepted rows; false if the budget did not suffice.
    fn collect(
        &self,
        graph: &Graph,
        effort: Effort,
        grouping: &Grouping<'_>,
        scratch: &mut Scratch,
        found: &mut Vec<Entry>,
    ) -> Read<bool> {
        let accept = |row| self.accepts(row, grouping);
        let most = effort.k + SPARE;
        let limits = Limits {
            budget: Self::scan_in_hops(graph, self.candidates) as usize,
            absent: &[],
        };
        match grouping.limit {
            Some((groups, size)) => {
                let mut top = GroupedTop::new(most, size, groups);
                let done = graph.collect(effort, accept, &mut top, limits, scratch)?;
                found.extend(top.entries());
                Ok(done)
            }
            None => {
                let mut top = std::mem::take(&mut scratch.top);
                top.reset(most);
                let done = graph.collect(effort, accept, &mut top, limits, scratch);
                found.extend(top.entries());
                scratch.top = top;
                done
            }
        }
    }

    /// Orders what was found by full vectors and keeps the k best.
    fn settle(&self, probe: &Probe<'_>, found: &mut Vec<Entry>) -> Read<()> {
        settle(probe, found)?;
        found.truncate(self.ask.k);
        Ok(())
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
            .map(|query| state.probe(query))
            .collect();
        let mut found = vec![Vec::new(); probes.len()];
        let mut left = Vec::new();
        let codes = match (self.way, &state.codes) {
            (Way::Codes(width), Some(codes)) => Some((width, codes)),
            _ => None,
        };
        if let Some((width, codes)) = codes {
            self.by_codes(codes, width, &probes, first, &mut found)?;
        }
        for (i, probe) in probes.iter().enumerate() {
            if codes.is_none() && !self.by_graph(probe, first + i, scratch, &mut found[i])? {
                found[i].clear();
                left.push(i);
            }
        }
        if !left.is_empty() && left.len() == probes.len() {
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

/// Walks the graph towards `scratch.query`; the finds are appended to `found` as rows with minus their squared distances.
pub(crate) fn walk(
    state: &State,
    graph: &Graph,
    probe: &Probe<'_>,
    effort: Effort,
    absent: &[u32],
    scratch: &mut Scratch,
    found: &mut Vec<Entry>,
) -> Read<()> {
    graph.walk(effort, absent, scratch)?;
    let finds = scratch.top.entries();
    // Beyond the k-th only those can be better that 8-bit rows cannot tell from it.
    let last = finds
        .get(effort.k - 1)
        .map(|kth| kth.score() * (1.0 + UNSURE));
    for (at, entry) in finds.iter().enumerate() {
        if at >= effort.k && last.is_some_and(|last| entry.score() < last) {
            break;
        }
        if entry.row() as usize >= state.rows() {
            return Err(graph.misnamed(entry.row()));
        }
        probe.prefetch(entry.row());
        state.keys.prefetch(entry.row());
        found.push(*entry);
    }
    Ok(())
}

/// How far off the squared distance of an 8-bit row is at most in all but few cases, as a share.
const UNSURE: f32 = 0.01;

/// Replaces the scores of rows by those of their full vectors, and sorts.
pub(crate) fn settle(probe: &Probe<'_>, found: &mut [Entry]) -> Read<()> {
    let (fours, rest) = found.as_chunks_mut::<4>();
    for four in fours {
        let rows = four.map(Entry::row);
        let scores = probe.score4(rows)?;
        for i in 0..4 {
            four[i] = Entry::new(scores[i], rows[i]);
        }
    }
    for entry in rest {
        *entry = Entry::new(probe.score(entry.row())?, entry.row());
    }
    found.sort_unstable_by(|a, b| b.cmp(a));
    Ok(())
}

struct Out<'a> {
    keys: &'a mut [u64],
    scores: &'a mut [f32],
    counts: &'a mut [i64],
}

/// How many rows a scan could score, about, for what a walk costs that answers one query; None: no walk answers it.
pub(crate) fn cost_of_walk(state: &State, ask: Ask<'_>) -> Result<Option<usize>> {
    let plan = Plan::new(state, ask)?;
    let share = state.graph.as_ref().map_or(1.0, Graph::row_share);
    Ok(match plan.way {
        Way::Walk(effort) => {
            let hops = effort.hops() * state.rows() as f64 / plan.candidates.max(1) as f64;
            Some((hops / share) as usize)
        }
        Way::Codes(width) => state.codes.as_ref().map(|codes| {
            let vector = state.params.dim * state.params.codes.bytes();
            Plan::code_bytes(state, codes) / vector + width
        }),
        Way::Exact | Way::Scan => None,
    })
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
