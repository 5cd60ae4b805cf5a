//! One search for items, whose parts are rows, over a snapshot: candidates and their scores from all their parts.
//!
//! Asks [`query`] for rows and [`exact`] for scores; allocates its results and a candidate list. For a mean or a sum the
//! candidates come from mean vectors and none can be missing. Else they come from walks of the graph, widened until no
//! other item can be better, by the bound of the threshold algorithm (Fagin, Lotem and Naor, PODS 2001), or until that
//! no longer changes the answer.

use std::ops::Range;

use rayon::prelude::*;

use crate::calibrate::KS;
use crate::error::{Error, Read, Result};
use crate::exact;
use crate::graph::scratch::Scratches;
use crate::group::{GroupId, Grouping, Items, NO_GROUP};
use crate::keys::RESERVED;
use crate::means::Means;
use crate::parts::{self, COUNTED, Score, Scored};
use crate::pool::{Control, Pool};
use crate::query::{self, Ask};
use crate::queue::Entry;
use crate::select::RowSet;
use crate::state::State;
use crate::vectors::Probe;

/// Query vectors that are scanned together, so that a row is read once for all of them.
const SCAN_TOGETHER: usize = 16;

/// Whether an answer has settled is judged by at least so many items: one alone says little about what was missed.
const JUDGED: usize = 20;

/// A row that a walk scores costs about as much as this many that a scan scores in order.
const WALK_PER_SCAN: usize = 4;

/// Rows are sorted by item where fewer than one in this many may be returned; else all items are gone through.
const NARROW: usize = 16;

/// What every query of a call asks for.
#[derive(Clone, Copy)]
pub struct ItemAsk<'a> {
    /// Items wanted.
    pub k: usize,
    /// How an item is scored.
    pub score: Score,
    /// Share of the exact answer wanted, in (0, 1].
    pub recall: f32,
    /// Whether to score every part.
    pub exact: bool,
    /// Rows that count as parts, in today's numbering; None: all live ones.
    pub allowed: Option<&'a RowSet>,
    /// The items.
    pub items: &'a Items,
    /// Group of each row, the same for all parts of an item, and how many items of one group are returned; None: no limit.
    pub limit: Option<(&'a [GroupId], usize)>,
    /// Group of each row, and the one whose rows do not count for each query.
    pub exclude: Option<(&'a [GroupId], &'a [GroupId])>,
}

/// The answers to `m` queries, row by row, padded to k columns.
#[derive(Debug, Default)]
pub struct ItemAnswers {
    /// Ids of items; [`NO_GROUP`] where there is no hit.
    pub items: Vec<GroupId>,
    /// Scores; minus infinity where there is no hit.
    pub scores: Vec<f32>,
    /// Key of each item's best part; [`RESERVED`] where there is no hit.
    pub parts: Vec<u64>,
    /// Hits of each query.
    pub counts: Vec<i64>,
}

/// Where the engine of one search lies.
pub struct Engine<'a> {
    /// The snapshot.
    pub state: &'a State,
    /// Threads of the index.
    pub pool: &'a Pool,
    /// Buffers of the index.
    pub scratches: &'a Scratches,
    /// Threads of the call.
    pub threads: usize,
    /// Who may stop it.
    pub control: &'a Control,
}

struct Search<'a> {
    engine: &'a Engine<'a>,
    ask: ItemAsk<'a>,
    vectors: &'a [f32],
    /// Where each query's vectors begin, and their number.
    offsets: &'a [usize],
}

/// Answers queries that are sets of prepared vectors (row-major); query i has the vectors `offsets[i]..offsets[i + 1]`.
///
/// # Errors
/// [`Error::Input`] for options that make no sense, [`Error::Corrupt`] where a file is damaged, [`Error::Cancelled`].
pub fn search(
    engine: &Engine<'_>,
    vectors: &[f32],
    offsets: &[usize],
    ask: ItemAsk<'_>,
) -> Result<ItemAnswers> {
    let state = engine.state;
    let count = vectors.len() / state.params.dim;
    if offsets.first() != Some(&0) || offsets.last() != Some(&count) {
        return Err(Error::input(format!(
            "offsets must begin with 0 and end with {count}, the number of vectors"
        )));
    }
    if let Some(at) = offsets.windows(2).position(|pair| pair[0] >= pair[1]) {
        return Err(Error::input(format!(
            "query {at} has no vectors; offsets must grow"
        )));
    }
    let search = Search {
        engine,
        ask,
        vectors,
        offsets,
    };
    // What both name is checked for either; the search for rows checks the rest.
    query::cost_of_walk(
        state,
        search.ask_for(ask.k, ask.recall, Some((ask.items.of_row(), 1))),
    )?;
    query::cost_of_walk(state, search.ask_for(ask.k, ask.recall, ask.limit))?;
    let cells = query::cells(search.queries(), ask.k)?;
    let mut answers = ItemAnswers {
        items: query::filled(cells, NO_GROUP)?,
        scores: query::filled(cells, f32::NEG_INFINITY)?,
        parts: query::filled(cells, RESERVED)?,
        counts: Vec::with_capacity(search.queries()),
    };
    let found = match ask.score {
        Score::Max if ask.limit.is_none_or(|(_, size)| size == 1) => search.nearest()?,
        Score::Count => search.counted()?,
        _ => search.scored()?,
    };
    for (query, hits) in found.iter().enumerate() {
        for (i, hit) in hits.iter().enumerate() {
            let at = query * ask.k + i;
            let row = hit.part();
            answers.items[at] = ask.items.of_row()[row as usize];
            answers.parts[at] = state.keys.key(row)?;
            answers.scores[at] = if ask.score.is_like_a_part() {
                state.params.metric.presented(hit.score())
            } else {
                hit.score()
            };
        }
        answers.counts.push(hits.len() as i64);
    }
    Ok(answers)
}

impl<'a> Search<'a> {
    fn queries(&self) -> usize {
        self.offsets.len() - 1
    }

    /// The vectors of some queries, or of the whole call.
    fn vectors_of(&self, queries: Range<usize>) -> &'a [f32] {
        let dim = self.engine.state.params.dim;
        &self.vectors[self.offsets[queries.start] * dim..self.offsets[queries.end] * dim]
    }

    fn lengths(&self, queries: Range<usize>) -> Vec<usize> {
        let offsets = &self.offsets[queries.start..=queries.end];
        offsets.windows(2).map(|pair| pair[1] - pair[0]).collect()
    }

    /// A search for rows, which excludes nothing yet.
    fn ask_for(&self, k: usize, recall: f32, limit: Option<(&'a [GroupId], usize)>) -> Ask<'a> {
        Ask {
            k,
            recall,
            ef: None,
            exact: self.ask.exact,
            allowed: self.ask.allowed,
            limit,
            exclude: self.ask.exclude,
        }
    }

    /// One row of each item.
    fn one_of_each(&self) -> Option<(&'a [GroupId], usize)> {
        let items = self.ask.items;
        (!items.are_rows()).then(|| (items.of_row(), 1))
    }

    /// How many items a list must have whose first k are wanted. Where they reach further down than the farthest rows that
    /// calibration measured, a list twice as long keeps the recall.
    fn listed(&self) -> usize {
        let ItemAsk {
            k, items, exact, ..
        } = self.ask;
        let reach = k.saturating_mul(items.of_row().len()) / items.count().max(1);
        if exact || self.ask.recall >= 1.0 || reach <= KS[KS.len() - 1] {
            k
        } else {
            k.saturating_mul(2)
        }
    }

    /// Half of what recall may be lost is left to the walks, half to what comes of their finds.
    fn recall_of_walks(&self) -> f32 {
        1.0 - (1.0 - self.ask.recall) / 2.0
    }

    fn excluded(&self, query: usize) -> Grouping<'a> {
        let exclude = self.ask.exclude.map(|(groups, ids)| (groups, ids[query]));
        Grouping {
            limit: None,
            exclude: exclude.filter(|&(_, id)| id != NO_GROUP),
        }
    }

    fn counts_as_part(&self, row: u32) -> bool {
        let state = self.engine.state;
        (row as usize) < state.rows()
            && match self.ask.allowed {
                Some(allowed) => allowed.contains(row),
                None => state.is_live(row),
            }
    }

    /// The rows that a search found for each vector of the call, best first.
    fn rows(&self, ask: Ask<'_>) -> Result<Vec<Vec<Entry>>> {
        let Engine {
            state,
            pool,
            scratches,
            threads,
            control,
        } = *self.engine;
        let ids: Option<Vec<GroupId>> = self.ask.exclude.map(|(_, ids)| {
            let lengths = self.lengths(0..self.queries());
            let repeated = ids.iter().zip(lengths);
            repeated
                .flat_map(|(&id, n)| std::iter::repeat_n(id, n))
                .collect()
        });
        let exclude = ask.exclude.zip(ids.as_deref());
        let ask = Ask {
            exclude: exclude.map(|((groups, _), ids)| (groups, ids)),
            ..ask
        };
        let found = query::search(state, self.vectors, ask, threads, pool, scratches, control)?;
        Ok(entries(state, &found, ask.k)?)
    }

    /// By the best part: the nearest rows of different items, for each vector, hold the nearest items for any of them.
    fn nearest(&self) -> Result<Vec<Vec<Scored>>> {
        let ItemAsk {
            k, recall, items, ..
        } = self.ask;
        let limit = self.ask.limit.or_else(|| self.one_of_each());
        let lists = self.rows(self.ask_for(self.listed(), recall, limit))?;
        let mut lists = lists.into_iter();
        let merged = self.lengths(0..self.queries()).into_iter().map(|vectors| {
            let mut entries: Vec<Entry> = lists.by_ref().take(vectors).flatten().collect();
            if vectors > 1 {
                entries.sort_unstable_by(|a, b| b.cmp(a));
                let mut seen = std::collections::BTreeSet::new();
                entries.retain(|entry| seen.insert(items.item(entry.row())));
            }
            let found = entries
                .into_iter()
                .map(|entry| Scored::new(entry.score(), entry));
            parts::best(found.collect(), k, self.ask.limit)
        });
        Ok(merged.collect())
    }

    /// By how many parts are among the nearest of each vector.
    fn counted(&self) -> Result<Vec<Vec<Scored>>> {
        let ItemAsk { k, items, .. } = self.ask;
        let lists = self.rows(self.ask_for(COUNTED, self.recall_of_walks(), None))?;
        self.each(1, |query| {
            let rows = lists[self.offsets[query.start]..self.offsets[query.end]].iter();
            let nearest = rows.flatten().map(|entry| entry.row());
            let counted = parts::counts(items, nearest);
            let candidates: Vec<u32> = counted.iter().map(|&(item, _)| item).collect();
            let found = parts::with_counts(self.score(query.start, &candidates)?, &counted);
            Ok(vec![parts::best(found, k, self.ask.limit)])
        })
    }

    /// By a score that needs all parts of an item.
    fn scored(&self) -> Result<Vec<Vec<Scored>>> {
        self.engine.control.expect(self.queries());
        let vectors = self.offsets[self.queries()];
        let together = SCAN_TOGETHER
            .min(vectors.div_ceil(self.engine.threads))
            .max(1);
        self.each(together, |queries| {
            let mut found = Vec::with_capacity(queries.len());
            for query in queries.clone() {
                self.engine.control.check()?;
                found.push(match self.ask.score {
                    Score::Mean | Score::Sum => self.by_means(query)?,
                    _ => self.widened(query)?,
                });
            }
            let mut left: Vec<usize> = queries.clone().collect();
            left.retain(|&query| found[query - queries.start].is_none());
            if left.len() == queries.len() {
                return self.scan(queries);
            }
            for query in left {
                found[query - queries.start] = self.scan(query..query + 1)?.pop();
            }
            self.engine.control.advance(queries.len());
            Ok(found.into_iter().map(Option::unwrap_or_default).collect())
        })
    }

    /// Runs `answer` over ranges of queries with about `together` vectors each, in parallel where there are several.
    fn each(
        &self,
        together: usize,
        answer: impl Fn(Range<usize>) -> Result<Vec<Vec<Scored>>> + Sync + Send,
    ) -> Result<Vec<Vec<Scored>>> {
        let mut ranges: Vec<Range<usize>> = Vec::new();
        for query in 0..self.queries() {
            match ranges.last_mut() {
                Some(last) if self.offsets[query + 1] - self.offsets[last.start] <= together => {
                    last.end = query + 1;
                }
                _ => ranges.push(query..query + 1),
            }
        }
        if ranges.len() <= 1 || self.engine.threads == 1 {
            let found: Result<Vec<_>> = ranges.into_iter().map(answer).collect();
            return Ok(found?.into_iter().flatten().collect());
        }
        let found: Vec<_> = self.engine.pool.run(self.engine.threads, || {
            ranges.into_par_iter().map(answer).collect::<Result<_>>()
        })?;
        Ok(found.into_iter().flatten().collect())
    }

    /// The exact scores of candidates for one query, in their order.
    fn score(&self, query: usize, candidates: &[u32]) -> Result<Vec<Scored>> {
        let items = self.ask.items;
        let rows = candidates.iter().flat_map(|&item| items.rows(item).iter());
        let rows = rows.copied().filter(|&row| self.counts_as_part(row));
        Ok(self
            .tally(query..query + 1, rows)?
            .pop()
            .unwrap_or_default())
    }

    /// The exact scores of all items.
    fn scan(&self, queries: Range<usize>) -> Result<Vec<Vec<Scored>>> {
        let items = self.ask.items;
        let allowed = self.ask.allowed;
        let narrow = allowed.filter(|set| set.count() < items.of_row().len() / NARROW);
        let found = if let Some(set) = narrow {
            let mut rows: Vec<u32> = set.iter().filter(|&row| self.counts_as_part(row)).collect();
            rows.sort_by_key(|&row| items.item(row));
            self.tally(queries, rows.into_iter())?
        } else {
            let rows = items.all_rows().iter().copied();
            self.tally(queries, rows.filter(|&row| self.counts_as_part(row)))?
        };
        let best = |found| parts::best(found, self.ask.k, self.ask.limit);
        Ok(found.into_iter().map(best).collect())
    }

    fn tally(
        &self,
        queries: Range<usize>,
        rows: impl Iterator<Item = u32>,
    ) -> Result<Vec<Vec<Scored>>> {
        let state = self.engine.state;
        let probes: Vec<Probe<'_>> = self
            .vectors_of(queries.clone())
            .chunks_exact(state.params.dim)
            .map(|vector| state.probe(vector))
            .collect();
        let excluded: Vec<Grouping<'_>> = queries.clone().map(|q| self.excluded(q)).collect();
        parts::tally(
            self.ask.score,
            self.ask.items,
            rows,
            &self.lengths(queries),
            |query, row| !excluded[query].excludes(row),
            |rows, columns| {
                self.engine.control.check()?;
                exact::scan_batch(&probes, rows.iter().copied(), |_, _| true, columns)?;
                Ok(())
            },
        )
    }

    /// By the mean or the sum, from the items that can be among the best by their mean vectors; None without those.
    fn by_means(&self, query: usize) -> Result<Option<Vec<Scored>>> {
        let ItemAsk {
            k, items, score, ..
        } = self.ask;
        let state = self.engine.state;
        if items.of_row().len() > state.rows() {
            return Ok(None);
        }
        let Some(means) = items.means(|| Means::new(state, items))? else {
            return Ok(None);
        };
        let excluded = self.excluded(query);
        let all_count = self.ask.allowed.is_none() && state.dead == 0 && excluded.exclude.is_none();
        let counts = |row: &&u32| self.counts_as_part(**row) && !excluded.excludes(**row);
        // An item that lacks a part is none of those that the means are of.
        let (mut whole, mut candidates) = (Vec::new(), Vec::new());
        for item in 0..items.count() as u32 {
            let rows = items.rows(item);
            let counted = if all_count {
                rows.len()
            } else {
                rows.iter().filter(counts).count()
            };
            if counted == rows.len() {
                whole.push((item, counted));
            } else if counted > 0 {
                candidates.push(item);
            }
        }
        let vectors = self.vectors_of(query..query + 1);
        let bounds = means.bounds(state.params.metric, score, vectors, whole.into_iter());
        let lowest = bounds.iter().map(|bounds| {
            let part = items.rows(bounds.item)[0];
            Scored::new(bounds.lower, Entry::new(0.0, part))
        });
        let lowest = parts::best(lowest.collect(), k, self.ask.limit);
        let reached = lowest.get(k - 1).map_or(f32::MIN, |item| item.score());
        let possible = bounds.iter().filter(|bounds| bounds.upper >= reached);
        candidates.extend(possible.map(|bounds| bounds.item));
        candidates.sort_unstable();
        let found = self.score(query, &candidates)?;
        Ok(Some(parts::best(found, k, self.ask.limit)))
    }

    /// The answer from candidates that walks find; None if scoring every part is the cheaper way.
    ///
    /// Each vector of the query gives the items with its nearest parts. An item that no list holds has no part above the
    /// lists' ends, which bounds its score; where k candidates reach the bound, the answer is as good as the lists. Where
    /// they do not, the lists are doubled until that changes no more of the answer than the recall leaves room for.
    fn widened(&self, query: usize) -> Result<Option<Vec<Scored>>> {
        let ItemAsk {
            k, items, recall, ..
        } = self.ask;
        let parts_in_all = match self.ask.allowed {
            Some(allowed) => allowed.count(),
            None => self.engine.state.live(),
        };
        let vectors = self.offsets[query + 1] - self.offsets[query];
        let judged = k.max(JUDGED);
        let room = ((1.0 - recall) / 2.0 * judged as f32) as usize;
        // One vector's list is in order of the score already.
        let (mut first, mut wide) = match vectors {
            1 if self.ask.limit.is_none() => (self.listed(), self.listed()),
            _ => (judged, judged.saturating_mul(2)),
        };
        let mut seen = RowSet::empty(items.count());
        let mut found: Vec<Scored> = Vec::new();
        let mut before: Option<Vec<Scored>> = None;
        let mut cost = 0;
        loop {
            let ask = self.ask_for(wide, self.recall_of_walks(), self.one_of_each());
            let Some(walk) = query::cost_of_walk(self.engine.state, ask)? else {
                return Ok(None);
            };
            cost += walk.saturating_mul(WALK_PER_SCAN);
            if 2 * cost > parts_in_all {
                return Ok(None);
            }
            let lists = self.lists(query, ask)?;
            for step in [first, wide] {
                let rows = lists.iter().flat_map(|list| list.iter().take(step));
                let mut fresh: Vec<u32> = rows.map(|entry| items.item(entry.row())).collect();
                fresh.retain(|&item| seen.insert(item));
                fresh.sort_unstable();
                cost += fresh.iter().map(|&i| items.rows(i).len()).sum::<usize>();
                if cost > parts_in_all {
                    return Ok(None);
                }
                found.extend(self.score(query, &fresh)?);
                let mut now = parts::best(found.clone(), judged, self.ask.limit);
                let (floors, complete) = floors(&lists, step);
                let bound = self.ask.score.bound(&floors);
                let proven = now.get(k - 1).is_some_and(|item| item.score() >= bound);
                let changes = before.map_or(judged, |before| changed(&before, &now));
                if complete || proven || (now.len() == judged && changes <= room) {
                    now.truncate(k);
                    return Ok(Some(now));
                }
                before = Some(now);
                if step == wide {
                    // Each doubling is taken to halve what changes and to cost twice the one before.
                    let doublings = (changes / (room + 1)).max(1).ilog2() + 1;
                    let last = walk.saturating_mul(WALK_PER_SCAN << doublings.min(16));
                    if 2 * cost.saturating_add(last) > parts_in_all {
                        return Ok(None);
                    }
                    break;
                }
            }
            wide = wide.saturating_mul(2);
            first = wide;
        }
    }

    /// The nearest rows of different items, for each vector of one query.
    fn lists(&self, query: usize, ask: Ask<'a>) -> Result<Vec<Vec<Entry>>> {
        let Engine {
            state,
            pool,
            scratches,
            ..
        } = *self.engine;
        let exclude = self
            .ask
            .exclude
            .map(|(groups, ids)| (groups, &ids[query..=query]));
        let ask = Ask { exclude, ..ask };
        let vectors = self.vectors_of(query..query + 1);
        let mut lists = Vec::new();
        for vector in vectors.chunks_exact(state.params.dim) {
            self.engine.control.check()?;
            // A walk is short; what watches this call counts queries, not walks.
            let control = Control::default();
            let found = query::search(state, vector, ask, 1, pool, scratches, &control)?;
            lists.extend(entries(state, &found, ask.k)?);
        }
        Ok(lists)
    }
}

/// The score at the end of each list's first `step` entries; and whether a list ends before, and so holds every item.
fn floors(lists: &[Vec<Entry>], step: usize) -> (Vec<f32>, bool) {
    let floors = lists.iter().map(|list| match list.get(step - 1) {
        Some(entry) => entry.score(),
        None => f32::MIN,
    });
    (floors.collect(), lists.iter().any(|list| list.len() < step))
}

/// How many of `now` are not in `before`; both are best first.
fn changed(before: &[Scored], now: &[Scored]) -> usize {
    let is_new = |item: &&Scored| before.binary_search_by(|other| item.cmp(&other)).is_err();
    now.iter().filter(is_new).count()
}

/// The rows of a search's answers, best first, a list for each vector.
fn entries(state: &State, found: &query::Answers, k: usize) -> Read<Vec<Vec<Entry>>> {
    let counts = found.counts.iter().enumerate();
    let list = |(vector, &count): (usize, &i64)| {
        let at = vector * k..vector * k + count as usize;
        let pairs = found.keys[at.clone()].iter().zip(&found.scores[at]);
        pairs
            .filter_map(|(&key, &score)| {
                let row = state.row(key).transpose()?;
                Some(row.map(|row| Entry::new(score, row)))
            })
            .collect()
    };
    counts.map(list).collect()
}
