//! Exact search: every allowed row is scored. The oracle, and the answer for small data and narrow filters.
//!
//! Reads rows in order: four at a time for one query, as tiles for a batch. A score has the same bits either way.

use crate::error::Read;
use crate::queue::{Collect, Entry};
use crate::vectors::{Gathered, Probe};

/// Rows that are scored for every query of a batch while they lie in the cache.
const BLOCK: usize = 64;

/// From so many queries on, rows are scored as tiles.
const TILE_FROM: usize = 4;

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
    if probes.len() >= TILE_FROM && probes[0].has_tiles() {
        return scan_tiles(probes, rows, accept, collectors);
    }
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

/// [`scan_batch`] by tiles of all queries and a block of rows; a block ends where its rows cease to lie side by side.
fn scan_tiles(
    probes: &[Probe<'_>],
    rows: impl Iterator<Item = u32>,
    accept: impl Fn(usize, u32) -> bool,
    collectors: &mut [impl Collect],
) -> Read<()> {
    let queries: Vec<f32> = probes
        .iter()
        .flat_map(|probe| probe.query().iter().copied())
        .collect();
    let together = probes[0].rows_side_by_side();
    let mut gathered = Gathered::default();
    let mut scores = vec![0.0; probes.len() * BLOCK];
    let mut rows = rows.peekable();
    let mut block = Vec::with_capacity(BLOCK);
    while let Some(first) = rows.next() {
        block.clear();
        block.push(first);
        let mut consecutive = true;
        while block.len() < BLOCK
            && let Some(row) = rows.next_if(|row| !(consecutive && row % together == 0))
        {
            consecutive &= row == first + block.len() as u32;
            block.push(row);
        }
        let scores = &mut scores[..probes.len() * block.len()];
        probes[0].score_tile(&queries, &block, &mut gathered, scores)?;
        let lines = scores.chunks_exact(block.len());
        for (i, (line, collect)) in lines.zip(collectors.iter_mut()).enumerate() {
            // No number where there is room still, and no score is below that.
            let floor = collect.floor().score();
            if all_below(line, floor) {
                continue;
            }
            for (&row, &score) in block.iter().zip(line) {
                let entry = Entry::new(score, row);
                if entry > collect.floor() && accept(i, row) {
                    collect.offer(entry);
                }
            }
        }
    }
    Ok(())
}

/// Without an early exit, which vectors cannot take.
fn all_below(scores: &[f32], floor: f32) -> bool {
    let (blocks, rest) = scores.as_chunks::<8>();
    let mut some = [0_u32; 8];
    for block in blocks {
        for i in 0..8 {
            some[i] |= u32::from(block[i] >= floor);
        }
    }
    !floor.is_nan() && some == [0; 8] && rest.iter().all(|&score| score < floor)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::Metric;
    use crate::queue::Top;
    use crate::random::Stream;
    use crate::vectors::{Codes, Vectors};

    /// Tables whose rows lie side by side and whose rows do not; all rows, some, and none.
    #[test]
    fn a_batch_finds_what_single_queries_find_in_every_bit() {
        let mut stream = Stream::new(7, 0, 0);
        let mut unit = || (stream.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0;
        for (dim, count) in [(5, 700), (64, 2100), (70, 400)] {
            let rows: Vec<f32> = (0..count * dim).map(|_| unit()).collect();
            let queries: Vec<f32> = (0..9 * dim).map(|_| unit()).collect();
            for (codes, metric) in [
                (Codes::F32, Metric::Dot),
                (Codes::F32, Metric::L2),
                (Codes::F16, Metric::Dot),
                (Codes::F16, Metric::L2),
            ] {
                let mut table = Vectors::new(codes, dim);
                for (at, row) in rows.chunks_exact(dim).enumerate() {
                    // Every tenth row equals the first, so that rows tie.
                    let row = if at % 10 == 9 { &rows[..dim] } else { row };
                    table.push(row, at).unwrap();
                }
                for step in [1, 3, count] {
                    let chosen = || {
                        (usize::from(step > 1)..count)
                            .step_by(step)
                            .map(|row| row as u32)
                    };
                    for k in [1, 10, count + 1] {
                        let probes: Vec<_> = queries
                            .chunks_exact(dim)
                            .map(|query| Probe::new(&table, metric, query))
                            .collect();
                        let accept = |i: usize, row: u32| !(row as usize + i).is_multiple_of(7);
                        let mut tops: Vec<_> =
                            probes.iter().map(|_| Top::with_capacity(k)).collect();
                        scan_batch(&probes, chosen(), accept, &mut tops).unwrap();
                        for (i, (probe, found)) in probes.iter().zip(&tops).enumerate() {
                            let mut wanted: Vec<Entry> = chosen()
                                .filter(|&row| accept(i, row))
                                .map(|row| Entry::new(probe.score(row).unwrap(), row))
                                .collect();
                            wanted.sort_unstable_by(|a, b| b.cmp(a));
                            wanted.truncate(k);
                            assert_eq!(
                                found.entries(),
                                wanted,
                                "{codes:?} {metric:?} {dim} {step}"
                            );
                        }
                    }
                }
            }
        }
    }
}
