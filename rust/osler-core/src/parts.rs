//! The score of an item from those of its parts, for a query of one or several vectors, and the k best items.
//!
//! Knows no snapshot: it is handed part scores in blocks, item after item, and keeps one item's sums at a time. Frequency,
//! best and sum of 3D-MIR (Abacha et al. 2023); MaxSim of ColBERT (Khattab and Zaharia, SIGIR 2020, section 3.2); median
//! of minima of Yottixel (Kalra et al. 2020), where the minimal distance is the maximal score.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::group::{GroupId, Items};
use crate::queue::{Collect, Entry, Top};

/// Parts that each vector of a query retrieves to be counted: 3D-MIR, section "Retrieval".
pub const COUNTED: usize = 20;

/// Parts that are scored before they are summed up, so that scoring runs over whole blocks.
const BLOCK: usize = 256;

/// How an item is scored from the scores of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// The best part for any vector of the query.
    Max,
    /// The mean over parts, for the vector of the query that gives the highest.
    Mean,
    /// The sum over parts, for the vector of the query that gives the highest.
    Sum,
    /// How many parts are among the [`COUNTED`] nearest of each vector of the query.
    Count,
    /// The sum over the query's vectors of the best part for each.
    MaxSim,
    /// The median over the query's vectors of the best part for each.
    MedianMin,
}

impl Score {
    /// All scores with their public names.
    pub const NAMES: [(&'static str, Score); 6] = [
        ("max", Score::Max),
        ("mean", Score::Mean),
        ("sum", Score::Sum),
        ("count", Score::Count),
        ("maxsim", Score::MaxSim),
        ("median_min", Score::MedianMin),
    ];

    /// The score of a public name.
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        let named = Self::NAMES.iter().find(|(n, _)| *n == name);
        named.map(|&(_, score)| score).ok_or_else(|| {
            let names: Vec<&str> = Self::NAMES.iter().map(|(n, _)| *n).collect();
            Error::input(format!(
                "score is {name:?}; choose one of {}",
                names.join(", ")
            ))
        })
    }

    /// Whether it lies where the scores of parts lie.
    pub fn is_like_a_part(self) -> bool {
        matches!(self, Score::Max | Score::Mean | Score::MedianMin)
    }

    /// One value from that of each vector of the query; `values` may be reordered.
    fn over_vectors(self, values: &mut [f64]) -> f64 {
        match self {
            Score::MaxSim => values.iter().sum(),
            Score::MedianMin => {
                values.sort_unstable_by(f64::total_cmp);
                let middle = values.len() / 2;
                if values.len() % 2 == 1 {
                    values[middle]
                } else {
                    (values[middle - 1] + values[middle]) / 2.0
                }
            }
            _ => values.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }

    /// The highest score that an item can have none of whose parts scores above `floors`, one a vector of the query.
    ///
    /// Not of a sum, which grows with the number of parts, or of a count.
    pub fn bound(self, floors: &[f32]) -> f32 {
        let mut values: Vec<f64> = floors.iter().map(|&floor| f64::from(floor)).collect();
        rounded(self.over_vectors(&mut values))
    }
}

/// Scores are finite, though a sum of them need not fit.
fn rounded(score: f64) -> f32 {
    (score as f32).clamp(f32::MIN, f32::MAX)
}

/// An item's score, and its best part with that part's score. Greater is better: a higher score, or the same and a better
/// part, or equal parts and a lower row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scored {
    score: Entry,
    best: Entry,
}

impl Scored {
    /// The item of part `best`.
    pub fn new(score: f32, best: Entry) -> Self {
        Scored {
            score: Entry::new(score, 0),
            best,
        }
    }

    /// The item's score.
    pub fn score(self) -> f32 {
        self.score.score()
    }

    /// The row of the part that matches any vector of the query best.
    pub fn part(self) -> u32 {
        self.best.row()
    }
}

/// The scores of a block's rows for one vector of a query.
#[derive(Debug, Default)]
pub struct Column(pub Vec<f32>);

impl Collect for Column {
    #[inline(always)]
    fn offer(&mut self, entry: Entry) {
        self.0.push(entry.score());
    }

    #[inline(always)]
    fn floor(&self) -> Entry {
        Entry::NONE
    }
}

/// What was seen of one item's parts by one query.
#[derive(Debug)]
struct Tally {
    score: Score,
    sums: Vec<f64>,
    tops: Vec<f32>,
    parts: usize,
    best: Entry,
    values: Vec<f64>,
}

impl Tally {
    fn new(score: Score, vectors: usize) -> Self {
        Tally {
            score,
            sums: vec![0.0; vectors],
            tops: vec![f32::NEG_INFINITY; vectors],
            parts: 0,
            best: Entry::NONE,
            values: Vec::with_capacity(vectors),
        }
    }

    #[inline(always)]
    fn add(&mut self, row: u32, columns: &[Column], at: usize) {
        let mut own = f32::NEG_INFINITY;
        for ((sum, top), column) in self.sums.iter_mut().zip(&mut self.tops).zip(columns) {
            let score = column.0[at];
            *sum += f64::from(score);
            *top = top.max(score);
            own = own.max(score);
        }
        self.best = self.best.max(Entry::new(own, row));
        self.parts += 1;
    }

    /// The item's score, None if it had no part; the next item starts anew.
    fn finish(&mut self) -> Option<Scored> {
        if self.parts == 0 {
            return None;
        }
        self.values.clear();
        match self.score {
            Score::Sum => self.values.extend(&self.sums),
            Score::Mean => {
                let parts = self.parts as f64;
                self.values.extend(self.sums.iter().map(|sum| sum / parts));
            }
            _ => self
                .values
                .extend(self.tops.iter().map(|&top| f64::from(top))),
        }
        let scored = Scored::new(
            rounded(self.score.over_vectors(&mut self.values)),
            self.best,
        );
        self.sums.fill(0.0);
        self.tops.fill(f32::NEG_INFINITY);
        self.parts = 0;
        self.best = Entry::NONE;
        Some(scored)
    }
}

/// Scores the items whose parts are `rows`, which come item after item, for several queries of `vectors[i]` vectors each.
///
/// A part counts for a query where `accept` says so; an item without such a part has no score. `fill` writes the scores of
/// a block of rows, a column for each vector of each query. The items of each query come in the order of `rows`.
///
/// # Errors
/// What `fill` returns.
pub fn tally(
    score: Score,
    items: &Items,
    mut rows: impl Iterator<Item = u32>,
    vectors: &[usize],
    accept: impl Fn(usize, u32) -> bool,
    mut fill: impl FnMut(&[u32], &mut [Column]) -> Result<()>,
) -> Result<Vec<Vec<Scored>>> {
    let mut tallies: Vec<Tally> = vectors.iter().map(|&n| Tally::new(score, n)).collect();
    let mut found = vec![Vec::new(); vectors.len()];
    let mut columns: Vec<Column> = Vec::new();
    columns.resize_with(vectors.iter().sum(), Column::default);
    let mut block = Vec::with_capacity(BLOCK);
    let mut item = None;
    loop {
        block.clear();
        block.extend(rows.by_ref().take(BLOCK));
        if !block.is_empty() {
            columns.iter_mut().for_each(|column| column.0.clear());
            fill(&block, &mut columns)?;
        }
        for (at, &row) in block.iter().enumerate() {
            let own = Some(items.item(row));
            if own != item {
                for (found, tally) in found.iter_mut().zip(&mut tallies) {
                    found.extend(tally.finish());
                }
                item = own;
            }
            let mut rest = &columns[..];
            for (query, tally) in tallies.iter_mut().enumerate() {
                let (own, others) = rest.split_at(vectors[query]);
                rest = others;
                if accept(query, row) {
                    tally.add(row, own, at);
                }
            }
        }
        if block.len() < BLOCK {
            for (found, tally) in found.iter_mut().zip(&mut tallies) {
                found.extend(tally.finish());
            }
            return Ok(found);
        }
    }
}

/// The items that have parts among the nearest of a query's vectors, ascending, and how many; `nearest` may repeat rows.
pub fn counts(items: &Items, nearest: impl Iterator<Item = u32>) -> Vec<(u32, usize)> {
    let mut of_nearest: Vec<u32> = nearest.map(|row| items.item(row)).collect();
    of_nearest.sort_unstable();
    let runs = of_nearest.chunk_by(|a, b| a == b);
    runs.map(|run| (run[0], run.len())).collect()
}

/// The items of `counted` with their counts as scores; `found` are the same items in the same order.
pub fn with_counts(found: Vec<Scored>, counted: &[(u32, usize)]) -> Vec<Scored> {
    let pairs = found.into_iter().zip(counted);
    pairs
        .map(|(item, &(_, count))| Scored::new(count as f32, item.best))
        .collect()
}

/// The k best items, best first, of which at most so many as `limit` says are of one group; an item's group is that of its
/// best part.
pub fn best(mut found: Vec<Scored>, k: usize, limit: Option<(&[GroupId], usize)>) -> Vec<Scored> {
    // Most often few more than k items have to be in order before k of them are of different groups.
    let mut ordered = if limit.is_some() {
        k.saturating_mul(2)
    } else {
        k
    };
    loop {
        if ordered < found.len() {
            found.select_nth_unstable_by(ordered, |a, b| b.cmp(a));
        }
        let all = ordered >= found.len();
        let head = if all {
            &mut found[..]
        } else {
            &mut found[..ordered]
        };
        head.sort_unstable_by(|a, b| b.cmp(a));
        let Some((groups, size)) = limit else {
            found.truncate(k);
            return found;
        };
        let mut taken_of: BTreeMap<GroupId, usize> = BTreeMap::new();
        let distinct = head.iter().copied().filter(|item| {
            let taken = taken_of.entry(groups[item.part() as usize]).or_default();
            *taken += 1;
            *taken <= size
        });
        let taken: Vec<Scored> = distinct.take(k).collect();
        if all || taken.len() == k {
            return taken;
        }
        ordered = ordered.saturating_mul(4);
    }
}

/// The k best items by a table of scores, row-major: a row for each vector of one query, a column for each part.
///
/// # Errors
/// [`Error::Input`] if the table or the groups do not fit the parts, or a score is not finite.
pub fn rank(
    table: &[f32],
    vectors: usize,
    items: &Items,
    score: Score,
    k: usize,
    limit: Option<(&[GroupId], usize)>,
) -> Result<Vec<Scored>> {
    let parts = items.of_row().len();
    if k == 0 || vectors == 0 || vectors.checked_mul(parts) != Some(table.len()) {
        return Err(Error::input(format!(
            "scores has {} values; give one for each of {parts} parts and at least one vector, and a k of at least 1",
            table.len()
        )));
    }
    if let Some((groups, size)) = limit
        && (groups.len() != parts || size == 0)
    {
        return Err(Error::input(format!(
            "groups has {} entries for {parts} parts, and group_size is {size}; give one for each, and at least 1",
            groups.len()
        )));
    }
    if !osler_kernels::all_finite(table) {
        return Err(Error::input("scores has a value that is not finite"));
    }
    let column = |vector: usize| &table[vector * parts..(vector + 1) * parts];
    let fill = |rows: &[u32], columns: &mut [Column]| {
        for (vector, out) in columns.iter_mut().enumerate() {
            let scores = column(vector);
            out.0.extend(rows.iter().map(|&row| scores[row as usize]));
        }
        Ok(())
    };
    let counted = (score == Score::Count).then(|| {
        let nearest = (0..vectors).flat_map(|vector| {
            let mut top = Top::with_capacity(COUNTED);
            for (row, &score) in column(vector).iter().enumerate() {
                top.offer(Entry::new(score, row as u32));
            }
            top.entries().iter().map(|e| e.row()).collect::<Vec<u32>>()
        });
        counts(items, nearest)
    });
    let found = match &counted {
        Some(counted) => {
            let rows = counted.iter().flat_map(|&(item, _)| items.rows(item));
            tally(score, items, rows.copied(), &[vectors], |_, _| true, fill)?
        }
        None => {
            let rows = items.all_rows().iter().copied();
            tally(score, items, rows, &[vectors], |_, _| true, fill)?
        }
    };
    let found = found.into_iter().next().unwrap_or_default();
    let found = match counted {
        Some(counted) => with_counts(found, &counted),
        None => found,
    };
    Ok(best(found, k, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Item 5 has parts 0 and 2, item 9 parts 1, 3 and 4.
    fn ranked(score: Score) -> Vec<(u32, f32)> {
        let items = Items::new([5, 9, 5, 9, 9].into());
        let table = [
            [7.0, 1.0, 4.0, 2.0, 2.0],
            [0.0, 6.0, 1.0, 5.0, 3.0],
            [2.0, 2.0, 3.0, 2.0, 1.0],
        ];
        let found = rank(table.as_flattened(), 3, &items, score, 10, None).unwrap();
        found
            .iter()
            .map(|item| (item.part(), item.score()))
            .collect()
    }

    #[test]
    fn each_score_is_its_formula() {
        assert_eq!(ranked(Score::Max), [(0, 7.0), (1, 6.0)]);
        assert_eq!(ranked(Score::Mean), [(0, 5.5), (1, 14.0 / 3.0)]);
        assert_eq!(ranked(Score::Sum), [(1, 14.0), (0, 11.0)]);
        assert_eq!(ranked(Score::Count), [(1, 9.0), (0, 6.0)]);
        assert_eq!(ranked(Score::MaxSim), [(0, 11.0), (1, 10.0)]);
        assert_eq!(ranked(Score::MedianMin), [(0, 3.0), (1, 2.0)]);
    }

    #[test]
    fn a_median_of_two_is_their_mean() {
        assert_eq!(
            Score::MedianMin.over_vectors(&mut [4.0, 1.0, 2.0, 9.0]),
            3.0
        );
    }

    #[test]
    fn groups_let_the_next_item_in() {
        let items: Vec<Scored> = (0..100)
            .map(|row| Scored::new(-(row as f32), Entry::new(0.0, row)))
            .collect();
        let groups: Vec<GroupId> = (0..100).map(|row| GroupId::from(row >= 90)).collect();
        let parts = |size, k| -> Vec<u32> {
            let found = best(items.clone(), k, Some((&groups, size)));
            found.iter().map(|item| item.part()).collect()
        };
        assert_eq!(parts(1, 3), [0, 90]);
        assert_eq!(parts(2, 3), [0, 1, 90]);
    }

    #[test]
    fn no_item_below_the_floors_is_above_the_bound() {
        assert_eq!(Score::Max.bound(&[0.5, -0.25]), 0.5);
        assert_eq!(Score::MaxSim.bound(&[0.5, -0.25]), 0.25);
        assert_eq!(Score::MedianMin.bound(&[0.5, -0.25, 0.0]), 0.0);
    }
}
