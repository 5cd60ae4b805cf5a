//! A plan carried out for some queries: walks and scans, and the order of what they find by full vectors.
//!
//! Allocates in `Scratch` and in the caller's results.

use std::ops::Range;

use super::plan::{Plan, Way};
use crate::codes::CodeTable;
use crate::error::Read;
use crate::exact;
use crate::graph::Graph;
use crate::graph::scratch::Scratch;
use crate::graph::search::{Effort, Limits};
use crate::group::{Grouping, NO_GROUP};
use crate::quantize::Prepared;
use crate::queue::{Collect, Entry, GroupedTop, Many, Top};
use crate::select::{Ascending, RowSet};
use crate::state::State;
use crate::vectors::Probe;

/// From this k on a sorted list costs more than sorting once at the end.
const MANY: usize = 512;

/// Blocks of codes that are scanned for every query of a task while they lie in the cache.
const BLOCKS_TOGETHER: usize = 64;

/// Where group sizes are limited a scan keeps so many times the finds, and members of a group: estimates may take the wrong
/// ones first.
const GROUPED_SPARE: usize = 4;

/// Finds of a scan of a graph's rows beside the k wanted ones, to be ordered by full vectors, at least.
const SCAN_SPARE: usize = 14;

impl<'a> Plan<'a> {
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
        let most = self.ask.k + graph.spare().max(SCAN_SPARE);
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
                let mut top = std::mem::take(&mut scratch.top);
                top.reset(most);
                let done = graph.scan(rows, &mut top, scratch);
                let rounding = graph.rounding(&scratch.query);
                let decided = decided(top.entries(), self.ask.k, rounding);
                found.extend(&top.entries()[..decided]);
                scratch.top = top;
                done?;
                for find in &*found {
                    probe.prefetch(find.row());
                }
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
        let most = effort.k + graph.spare();
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
                let rounding = graph.rounding(&scratch.query);
                let decided = decided(top.entries(), effort.k, rounding);
                found.extend(&top.entries()[..decided]);
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

    fn rows(&self) -> Candidates<'a> {
        let state = self.state;
        let all = 0..state.rows() as u32;
        match self.ask.allowed {
            Some(allowed) => Candidates::Allowed(allowed.iter()),
            None if state.dead == 0 => Candidates::All(all),
            None => Candidates::Live(all, &state.deleted),
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
    pub(super) fn answer(
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
    for entry in &finds[..decided(finds, effort.k, graph.rounding(&scratch.query))] {
        if entry.row() as usize >= state.rows() {
            return Err(graph.misnamed(entry.row()));
        }
        probe.prefetch(entry.row());
        state.keys.prefetch(entry.row());
        found.push(*entry);
    }
    Ok(())
}

/// How many finds, best first, full vectors have to put in order: beyond the k-th only those can be better that 8-bit rows
/// cannot tell from it.
fn decided(finds: &[Entry], k: usize, rounding: f32) -> usize {
    match finds.get(k - 1) {
        Some(kth) => {
            let last = kth.score() - rounding;
            k + finds[k..].partition_point(|find| find.score() >= last)
        }
        None => finds.len(),
    }
}

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

/// The rows that may be returned, ascending. No trait object: its call would cost as much as what is done with a row.
enum Candidates<'a> {
    All(Range<u32>),
    Live(Range<u32>, &'a RowSet),
    Allowed(Ascending<'a>),
}

impl Iterator for Candidates<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        match self {
            Candidates::All(rows) => rows.next(),
            Candidates::Live(rows, deleted) => rows.find(|&row| !deleted.contains(row)),
            Candidates::Allowed(rows) => rows.next(),
        }
    }
}

pub(super) struct Out<'a> {
    pub(super) keys: &'a mut [u64],
    pub(super) scores: &'a mut [f32],
    pub(super) counts: &'a mut [i64],
}
