//! Exact search: every allowed row is scored. The oracle, and the answer for small data and narrow filters.
//!
//! Reads rows in order, four at a time; allocates nothing but what is collected.

use crate::error::Read;
use crate::queue::{Collect, Entry};
use crate::vectors::Probe;

/// Rows that are scored for every query of a batch while they lie in the cache.
const BLOCK: usize = 64;

/// Scores all `rows`, ascending, and offers them to `collect`.
///
/// # Errors
/// The damage, where a row lies in a damaged block of a file.
pub fn scan(
    probe: &Probe<'_>,
    rows: impl Iterator<Item = u32>,
    collect: &mut impl Collect,
) -> Read<()> {
    scan_batch(
        std::slice::from_ref(probe),
        rows,
        |_, _| true,
        std::slice::from_mut(collect),
    )
}

/// Scores all `rows`, ascending, against each of `probes` and offers those that `accept` (given the query's number and
/// the row) takes to the query's own collector.
///
/// # Errors
/// The damage, where a row lies in a damaged block of a file.
pub fn scan_batch(
    probes: &[Probe<'_>],
    mut rows: impl Iterator<Item = u32>,
    accept: impl Fn(usize, u32) -> bool,
    collectors: &mut [impl Collect],
) -> Read<()> {
    let mut block = [0; BLOCK];
    loop {
        let mut count = 0;
        while count < BLOCK {
            let Some(row) = rows.next() else { break };
            block[count] = row;
            count += 1;
        }
        for (i, (probe, collect)) in probes.iter().zip(collectors.iter_mut()).enumerate() {
            let mut take = |row: u32, score: f32| {
                let entry = Entry::new(score, row);
                if entry > collect.floor() && accept(i, row) {
                    collect.offer(entry);
                }
            };
            let mut fours = block[..count].chunks_exact(4);
            for four in &mut fours {
                let four = [four[0], four[1], four[2], four[3]];
                let scores = probe.score4(four)?;
                for (row, score) in four.into_iter().zip(scores) {
                    take(row, score);
                }
            }
            for &row in fours.remainder() {
                take(row, probe.score(row)?);
            }
        }
        if count < BLOCK {
            return Ok(());
        }
    }
}

/// All rows that score at least `threshold`, best first.
///
/// # Errors
/// The damage, where a row lies in a damaged block of a file.
pub fn above(
    probe: &Probe<'_>,
    rows: impl Iterator<Item = u32>,
    threshold: f32,
) -> Read<Vec<Entry>> {
    struct Above(Vec<Entry>, f32);
    impl Collect for Above {
        fn offer(&mut self, entry: Entry) {
            if entry.score() >= self.1 {
                self.0.push(entry);
            }
        }
        fn floor(&self) -> Entry {
            Entry::NONE
        }
    }
    let mut found = Above(Vec::new(), threshold);
    scan(probe, rows, &mut found)?;
    found.0.sort_unstable_by(|a, b| b.cmp(a));
    Ok(found.0)
}
