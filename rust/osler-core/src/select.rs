//! Which rows may be returned: a set of rows as bits, with set algebra.
//!
//! Pure values; rows at and beyond the set's length are outside it.

/// A set of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RowSet {
    words: Vec<u64>,
    len: usize,
}

impl RowSet {
    /// The empty set over rows `0..len`.
    pub fn empty(len: usize) -> Self {
        RowSet {
            words: vec![0; len.div_ceil(64)],
            len,
        }
    }

    /// All rows `0..len`.
    pub fn full(len: usize) -> Self {
        let mut set = RowSet {
            words: vec![u64::MAX; len.div_ceil(64)],
            len,
        };
        set.trim();
        set
    }

    fn trim(&mut self) {
        if !self.len.is_multiple_of(64)
            && let Some(last) = self.words.last_mut()
        {
            *last &= (1 << (self.len % 64)) - 1;
        }
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
        new
    }

    /// How many rows the set holds.
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// The rows, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().enumerate().flat_map(|(i, &word)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    i as u32 * 64 + bit
                })
            })
        })
    }

    /// Combines two sets word by word; the result is about as many rows as the longer one.
    pub fn combine(&self, other: &RowSet, how: impl Fn(u64, u64) -> u64) -> RowSet {
        let len = self.len.max(other.len);
        let word = |words: &[u64], i: usize| words.get(i).copied().unwrap_or(0);
        let words = (0..len.div_ceil(64))
            .map(|i| how(word(&self.words, i), word(&other.words, i)))
            .collect();
        let mut set = RowSet { words, len };
        set.trim();
        set
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
    }
}
