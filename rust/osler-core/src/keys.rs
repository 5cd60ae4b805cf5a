//! The user's keys to rows and back.
//!
//! Row to key is a table; key to row is a few immutable sorted runs, newest first, merged as they grow, so a snapshot
//! shares all of it. A row that was deleted keeps its key here; whether it is live is the index's to say.

use std::sync::Arc;

use crate::chunks::Rows;
use crate::error::{Error, Read, Result};

/// Stands for "no hit"; never a user's key.
pub const RESERVED: u64 = u64::MAX;

#[derive(Clone)]
enum Run {
    /// Keys `first..first + count` are rows `row..row + count`.
    Range { first: u64, row: u32, count: u32 },
    /// Pairs sorted by key.
    Sorted(Arc<[(u64, u32)]>),
}

impl Run {
    fn len(&self) -> usize {
        match self {
            Run::Range { count, .. } => *count as usize,
            Run::Sorted(pairs) => pairs.len(),
        }
    }

    fn find(&self, key: u64) -> Option<u32> {
        match self {
            Run::Range { first, row, count } => {
                let at = key.checked_sub(*first)?;
                (at < u64::from(*count)).then(|| row + at as u32)
            }
            Run::Sorted(pairs) => pairs
                .binary_search_by_key(&key, |p| p.0)
                .ok()
                .map(|i| pairs[i].1),
        }
    }

    fn pairs(&self) -> Vec<(u64, u32)> {
        match self {
            Run::Range { first, row, count } => (0..*count)
                .map(|i| (first + u64::from(i), row + i))
                .collect(),
            Run::Sorted(pairs) => pairs.to_vec(),
        }
    }
}

/// Both directions, for one snapshot.
#[derive(Clone)]
pub struct Keys {
    of_row: Rows<u64>,
    runs: Vec<Run>,
    next: u64,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            of_row: Rows::new(1),
            runs: Vec::new(),
            next: 0,
        }
    }
}

impl Keys {
    /// The keys of rows `0..`, with the next default key.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the table lies in a damaged file; [`Error::Input`] if a key stands twice or is reserved.
    pub fn from_rows(of_row: Rows<u64>, next: u64) -> Result<Self> {
        let all = of_row.to_vec()?;
        let mut keys = Keys {
            of_row,
            runs: Vec::new(),
            next,
        };
        keys.append_run(&all, 0)?;
        Ok(keys)
    }

    /// Asks the processor to fetch a row's key, which will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, row: u32) {
        self.of_row.prefetch(row as usize);
    }

    /// The key of a row.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    #[inline]
    pub fn key(&self, row: u32) -> Read<u64> {
        self.of_row.value(row as usize)
    }

    /// The newest row that was given this key.
    pub fn row(&self, key: u64) -> Option<u32> {
        self.runs.iter().rev().find_map(|run| run.find(key))
    }

    /// The table of keys.
    pub fn rows(&self) -> &Rows<u64> {
        &self.of_row
    }

    /// The next default key.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The next `count` default keys: one more than the greatest key ever used, and on.
    ///
    /// # Errors
    /// [`Error::Input`] if that would reach the reserved key.
    pub fn defaults(&self, count: usize) -> Result<Vec<u64>> {
        match self.next.checked_add(count as u64) {
            Some(end) => Ok((self.next..end).collect()),
            None => Err(Error::input(
                "no default keys are left above the greatest key in use; give keys explicitly",
            )),
        }
    }

    /// Gives the next rows these keys. The caller has checked that none belongs to a live row.
    ///
    /// # Errors
    /// [`Error::Input`] if a key stands twice or is the reserved one; nothing was changed then.
    pub fn append(&mut self, keys: &[u64]) -> Result<()> {
        let row = self.of_row.len() as u32;
        self.append_run(keys, row)?;
        for key in keys {
            self.of_row.push(std::slice::from_ref(key))?;
        }
        Ok(())
    }

    fn append_run(&mut self, keys: &[u64], row: u32) -> Result<()> {
        if keys.is_empty() {
            return Ok(());
        }
        if keys.contains(&RESERVED) {
            return Err(Error::input(format!(
                "key {RESERVED} is reserved for \"no hit\"; use another"
            )));
        }
        let consecutive = keys.windows(2).all(|pair| pair[0] + 1 == pair[1]);
        let run = if consecutive {
            Run::Range {
                first: keys[0],
                row,
                count: keys.len() as u32,
            }
        } else {
            let mut pairs: Vec<(u64, u32)> = keys.iter().copied().zip(row..).collect();
            pairs.sort_unstable();
            if let Some(pair) = pairs.windows(2).find(|pair| pair[0].0 == pair[1].0) {
                return Err(Error::input(format!(
                    "key {} is given twice; every row needs its own key",
                    pair[0].0
                )));
            }
            Run::Sorted(pairs.into())
        };
        self.next = self.next.max(keys.iter().max().map_or(0, |max| max + 1));
        self.push_run(run);
        Ok(())
    }

    fn push_run(&mut self, run: Run) {
        if let (
            Some(Run::Range { first, row, count }),
            Run::Range {
                first: f,
                row: r,
                count: c,
            },
        ) = (self.runs.last_mut(), &run)
            && *first + u64::from(*count) == *f
            && *row + *count == *r
        {
            *count += c;
            return;
        }
        self.runs.push(run);
        // Sizes at least double from newer to older runs, so a look-up visits few of them.
        while let [.., older, newer] = &self.runs[..]
            && older.len() < 2 * newer.len()
        {
            let mut pairs = older.pairs();
            pairs.extend(newer.pairs());
            // Sorted by key, then newest row first; the newest row of a key is the one that counts.
            pairs.sort_unstable_by_key(|&(key, row)| (key, u32::MAX - row));
            pairs.dedup_by_key(|pair| pair.0);
            self.runs.truncate(self.runs.len() - 2);
            self.runs.push(Run::Sorted(pairs.into()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_row_of_a_key_is_found_whatever_was_merged() {
        let mut keys = Keys::default();
        let mut expected = std::collections::HashMap::new();
        let mut row = 0;
        for step in 0..200_u64 {
            let count = 1 + step % 7;
            let batch: Vec<u64> = (0..count).map(|i| (step * 31 + i * 17) % 400).collect();
            keys.append(&batch).unwrap();
            for key in batch {
                expected.insert(key, row);
                assert_eq!(keys.key(row).unwrap(), key);
                row += 1;
            }
        }
        for key in 0..420 {
            assert_eq!(keys.row(key), expected.get(&key).copied(), "key {key}");
        }
        assert!(keys.runs.len() < 12);
    }

    #[test]
    fn default_keys_stay_one_run() {
        let mut keys = Keys::default();
        for _ in 0..100 {
            let batch = keys.defaults(3).unwrap();
            keys.append(&batch).unwrap();
        }
        assert_eq!(
            (keys.runs.len(), keys.next(), keys.row(299), keys.row(300)),
            (1, 300, Some(299), None)
        );
    }

    #[test]
    fn twice_the_same_key_changes_nothing() {
        let mut keys = Keys::default();
        assert!(
            keys.append(&[5, 9, 5])
                .unwrap_err()
                .to_string()
                .contains("key 5 is given twice")
        );
        assert!(keys.append(&[RESERVED]).is_err());
        assert_eq!((keys.rows().len(), keys.next()), (0, 0));
        keys.append(&[u64::MAX - 1]).unwrap();
        assert!(keys.defaults(1).is_err());
    }
}
