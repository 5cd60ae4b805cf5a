//! The user's keys to rows and back.
//!
//! Row to key is a table; key to row is a few immutable sorted runs, newest first, merged as they grow, so a snapshot
//! shares all of it. Of a file's keys the run is made when a key is first looked for, which no search does: opening reads
//! none. A row that was deleted keeps its key here; whether it is live is the index's to say.

use std::sync::{Arc, OnceLock};

use crate::chunks::Rows;
use crate::error::{Error, Read, Result};

/// Stands for "no hit"; never a user's key.
pub const RESERVED: u64 = u64::MAX;

/// A way from keys to rows.
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

    fn bytes(&self) -> usize {
        match self {
            Run::Range { .. } => 0,
            Run::Sorted(pairs) => size_of_val(&pairs[..]),
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
    /// Of the rows that a file has; None: there was no file.
    stored: Option<Arc<OnceLock<Run>>>,
    runs: Vec<Run>,
    next: u64,
}

impl Default for Keys {
    fn default() -> Self {
        Keys {
            of_row: Rows::new(1),
            stored: None,
            runs: Vec::new(),
            next: 0,
        }
    }
}

impl Keys {
    /// The keys of rows `0..` of a file, with the next default key.
    pub fn stored(of_row: Rows<u64>, next: u64) -> Self {
        Keys {
            of_row,
            stored: Some(Arc::default()),
            runs: Vec::new(),
            next,
        }
    }

    /// The same of rows that were put together, with keys of which none stands twice.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the table lies in a damaged file.
    pub fn from_rows(of_row: Rows<u64>, next: u64) -> Result<Self> {
        let mut keys = Keys {
            runs: Vec::new(),
            stored: None,
            next,
            of_row,
        };
        let all = keys.of_row.to_vec()?;
        keys.append_run(&all, 0)?;
        Ok(keys)
    }

    /// Checks a file's keys.
    ///
    /// # Errors
    /// As [`Keys::row`].
    pub fn check(&self) -> Read<()> {
        self.look_up().map(|_| ())
    }

    /// The run of a file's keys, if there are any, made when it is first asked for.
    ///
    /// # Errors
    /// As [`Keys::row`].
    fn look_up(&self) -> Read<Option<&Run>> {
        let Some(stored) = &self.stored else {
            return Ok(None);
        };
        if let Some(run) = stored.get() {
            return Ok(Some(run));
        }
        let keys = self.of_row.to_vec()?;
        if keys.iter().any(|&key| key >= self.next) {
            let problem = "the next key is not above all others";
            return Err(self.of_row.damage(0, problem));
        }
        let made = run_of(&keys, 0);
        let run = made.map_err(|_| self.of_row.damage(0, "a key is there twice"))?;
        Ok(Some(stored.get_or_init(|| run)))
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
    ///
    /// # Errors
    /// The damage, if keys lie in a damaged block of a file, if one stands there twice, or if the next one is among them.
    pub fn row(&self, key: u64) -> Read<Option<u32>> {
        let newer = self.runs.iter().rev();
        Ok(match newer.clone().find_map(|run| run.find(key)) {
            Some(row) => Some(row),
            None => self.look_up()?.and_then(|run| run.find(key)),
        })
    }

    /// Bytes that both directions take.
    pub fn bytes(&self) -> usize {
        let stored = self.stored.as_ref().and_then(|stored| stored.get());
        let runs = self.runs.iter().chain(stored).map(Run::bytes);
        self.of_row.bytes() + runs.sum::<usize>()
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
        let run = run_of(keys, row)?;
        if let Some(max) = keys.iter().max() {
            self.next = self.next.max(max + 1);
            self.push_run(run);
        }
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

/// The way from keys, each of which stands once, to rows `row..`.
fn run_of(keys: &[u64], row: u32) -> Result<Run> {
    let Some(&first) = keys.first() else {
        return Ok(Run::Sorted(Arc::new([])));
    };
    if keys.contains(&RESERVED) {
        return Err(Error::input(format!(
            "key {RESERVED} is reserved for \"no hit\"; use another"
        )));
    }
    let consecutive = keys.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    Ok(if consecutive {
        Run::Range {
            first,
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
    })
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
            assert_eq!(
                keys.row(key).unwrap(),
                expected.get(&key).copied(),
                "key {key}"
            );
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
            (
                keys.runs.len(),
                keys.next(),
                keys.row(299).unwrap(),
                keys.row(300).unwrap()
            ),
            (1, 300, Some(299), None)
        );
    }

    #[test]
    fn keys_of_a_file_are_looked_up_when_asked_for() {
        let table = |keys: &[u64]| Rows::from_values(keys);
        let mut keys = Keys::stored(table(&[7, 3, 9]), 10);
        assert_eq!(keys.bytes(), table(&[7, 3, 9]).bytes());
        assert_eq!(
            (keys.row(9).unwrap(), keys.row(8).unwrap()),
            (Some(2), None)
        );
        assert!(keys.bytes() > table(&[7, 3, 9]).bytes());
        keys.append(&[10, 11]).unwrap();
        assert_eq!(
            (keys.row(3).unwrap(), keys.row(11).unwrap()),
            (Some(1), Some(4))
        );
        assert_eq!(Keys::stored(table(&[]), 0).row(0).unwrap(), None);
        let problem = |keys: Keys| keys.row(0).unwrap_err().problem;
        assert_eq!(
            problem(Keys::stored(table(&[4, 4]), 5)),
            "a key is there twice"
        );
        let low = Keys::stored(table(&[4, 5]), 5);
        assert_eq!(problem(low), "the next key is not above all others");
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
