//! Which rows may be returned: a set of rows as bits, with set algebra.
//!
//! Pure values; rows at and beyond the set's length are outside it.

use std::sync::{Arc, OnceLock};

use arc_swap::ArcSwapOption;

/// A set with at most one row in so many is also kept as a list, which then takes half as much as its bits, once its rows
/// are gone through.
const LISTED_SHARE: usize = 64;

/// A set of rows.
#[derive(Clone, Debug, Default)]
pub struct RowSet {
    words: Vec<u64>,
    len: usize,
    count: usize,
    /// The rows of a sparse set, ascending; made when they are first gone through.
    listed: OnceLock<Box<[u32]>>,
}

impl RowSet {
    /// The empty set over rows `0..len`.
    pub fn empty(len: usize) -> Self {
        RowSet {
            words: vec![0; len.div_ceil(64)],
            len,
            ..RowSet::default()
        }
    }

    fn of(mut words: Vec<u64>, len: usize) -> Self {
        if !len.is_multiple_of(64)
            && let Some(last) = words.last_mut()
        {
            *last &= (1 << (len % 64)) - 1;
        }
        RowSet {
            count: words.iter().map(|word| word.count_ones() as usize).sum(),
            words,
            len,
            ..RowSet::default()
        }
    }

    /// All rows `0..len`.
    pub fn full(len: usize) -> Self {
        RowSet::of(vec![u64::MAX; len.div_ceil(64)], len)
    }

    /// Makes the set about more rows, none of which it holds.
    pub fn grow(&mut self, len: usize) {
        self.words.resize(len.div_ceil(64), 0);
        self.len = len;
    }

    /// Whether the set holds the row.
    #[inline(always)]
    pub fn contains(&self, row: u32) -> bool {
        self.words
            .get(row as usize >> 6)
            .is_some_and(|word| word >> (row & 63) & 1 == 1)
    }

    /// Which of the rows from `32 * block` on the set holds, a bit each.
    #[inline]
    pub fn word32(&self, block: usize) -> u32 {
        let word = self.words.get(block / 2).copied().unwrap_or(0);
        (word >> (block % 2 * 32)) as u32
    }

    /// Adds a row, which must be below the set's length; whether it was new.
    #[inline]
    pub fn insert(&mut self, row: u32) -> bool {
        let word = &mut self.words[row as usize >> 6];
        let bit = 1 << (row & 63);
        let new = *word & bit == 0;
        *word |= bit;
        if new {
            self.count += 1;
            self.listed.take();
        }
        new
    }

    /// How many rows the set holds.
    pub fn count(&self) -> usize {
        self.count
    }

    /// The rows, ascending.
    pub fn iter(&self) -> Ascending<'_> {
        if self.count <= self.len / LISTED_SHARE {
            let listed = self.listed.get_or_init(|| Bits::of(&self.words).collect());
            Ascending::Listed(listed.iter())
        } else {
            Ascending::Bits(Bits::of(&self.words))
        }
    }

    /// Combines two sets word by word; the result is about as many rows as the longer one.
    pub fn combine(&self, other: &RowSet, how: impl Fn(u64, u64) -> u64) -> RowSet {
        let len = self.len.max(other.len);
        let word = |words: &[u64], i: usize| words.get(i).copied().unwrap_or(0);
        let words = (0..len.div_ceil(64))
            .map(|i| how(word(&self.words, i), word(&other.words, i)))
            .collect();
        RowSet::of(words, len)
    }
}

/// The live rows of a prepared set, for the numbering and the deleted rows that they were last asked for with.
#[derive(Debug, Default)]
pub struct SetOnce(ArcSwapOption<Live>);

#[derive(Debug)]
struct Live {
    numbering: u64,
    deleted: Arc<RowSet>,
    set: Arc<RowSet>,
}

impl SetOnce {
    /// The set, made by `make` if it is not there.
    pub fn get(
        &self,
        numbering: u64,
        deleted: &Arc<RowSet>,
        make: impl FnOnce() -> RowSet,
    ) -> Arc<RowSet> {
        if let Some(live) = self.0.load().as_ref()
            && live.numbering == numbering
            && Arc::ptr_eq(&live.deleted, deleted)
        {
            return live.set.clone();
        }
        let set = Arc::new(make());
        self.0.store(Some(Arc::new(Live {
            numbering,
            deleted: deleted.clone(),
            set: set.clone(),
        })));
        set
    }
}

/// The rows of a set, ascending.
#[derive(Clone, Debug)]
pub enum Ascending<'a> {
    /// Of a set that is kept as a list as well.
    Listed(std::slice::Iter<'a, u32>),
    /// Of any other.
    Bits(Bits<'a>),
}

impl Iterator for Ascending<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        match self {
            Ascending::Listed(rows) => rows.next().copied(),
            Ascending::Bits(bits) => bits.next(),
        }
    }
}

/// The bits that are set, ascending.
#[derive(Clone, Debug)]
pub struct Bits<'a> {
    words: &'a [u64],
    /// The number of the word that is gone through, and what is left of it.
    at: usize,
    rest: u64,
}

impl<'a> Bits<'a> {
    fn of(words: &'a [u64]) -> Self {
        Bits {
            words,
            at: 0,
            rest: words.first().copied().unwrap_or(0),
        }
    }
}

impl Iterator for Bits<'_> {
    type Item = u32;

    #[inline(always)]
    fn next(&mut self) -> Option<u32> {
        while self.rest == 0 {
            self.at += 1;
            self.rest = *self.words.get(self.at)?;
        }
        let bit = self.rest.trailing_zeros();
        self.rest &= self.rest - 1;
        Some(self.at as u32 * 64 + bit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_hold_what_was_put_in() {
        let mut set = RowSet::empty(130);
        assert!(set.insert(0) && set.insert(64) && set.insert(129) && !set.insert(64));
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 64, 129]);
        assert_eq!(RowSet::full(130).count(), 130);
        let rest = RowSet::full(130).combine(&set, |a, b| a & !b);
        assert_eq!(rest.count(), 127);
        assert!(!rest.contains(64) && !rest.contains(1000));
        assert_eq!(rest.iter().count(), 127);
    }

    #[test]
    fn a_sparse_set_has_its_rows_after_changes() {
        let mut set = RowSet::empty(1000);
        let mut rows = vec![900, 3, 64, 63];
        for &row in &rows {
            set.insert(row);
        }
        rows.sort_unstable();
        assert_eq!(set.iter().collect::<Vec<_>>(), rows);
        set.insert(100);
        assert_eq!(set.iter().collect::<Vec<_>>(), [3, 63, 64, 100, 900]);
        let dense = set.combine(&RowSet::full(700), |a, b| a | b);
        assert_eq!((dense.count(), dense.iter().last()), (701, Some(900)));
        assert_eq!(RowSet::empty(0).iter().next(), None);
    }
}
