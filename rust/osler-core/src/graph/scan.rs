//! A scan of some rows of the graph by their rows of small numbers, four at a time.
//!
//! Reads blocks, allocates nothing.

use super::Graph;
use super::node::{Blocks, NONE, distances};
use super::scratch::Scratch;
use crate::error::Read;
use crate::queue::{Collect, Entry};

/// Rows that a scan scores before it looks which are good.
const SCANNED_TOGETHER: usize = 256;

/// Rows that a scan asks for before it needs them.
const SCANNED_AHEAD: usize = 12;

impl Graph {
    /// Offers `rows`, which are linked, by their distances from `scratch.query`.
    ///
    /// # Errors
    /// The damage, where blocks lie in a damaged part of a file.
    pub fn scan(
        &self,
        mut rows: impl Iterator<Item = u32>,
        collect: &mut impl Collect,
        scratch: &Scratch,
    ) -> Read<()> {
        let query = &scratch.query;
        let at = self.lookup();
        let names_of_rows = self.node_of.view();
        let (mut some, mut names) = ([0; SCANNED_TOGETHER], [0; SCANNED_TOGETHER]);
        let mut seen = [Entry::NONE; SCANNED_TOGETHER];
        let five = self.frame.blocks() == Blocks::Single5;
        loop {
            let mut count = 0;
            for row in rows.by_ref() {
                let name = names_of_rows.row(row as usize)?[0];
                if !at.exists(name) {
                    if name == NONE {
                        continue;
                    }
                    return Err(self.node_of.damage(row as usize, super::BROKEN_LINKS));
                }
                (some[count], names[count]) = (row, name);
                count += 1;
                if count == SCANNED_TOGETHER {
                    break;
                }
            }
            let (names, some) = (&names[..count], &some[..count]);
            for &name in names.iter().take(SCANNED_AHEAD) {
                at.prefetch_row(name);
            }
            let seen = &mut seen[..count];
            let (fours, rest) = names.as_chunks::<4>();
            let left = 4 * fours.len();
            let soon = names.get(SCANNED_AHEAD..).unwrap_or(&[]).chunks(4);
            let mut soon = soon.chain(std::iter::repeat(&[][..]));
            let found = seen.as_chunks_mut::<4>().0.iter_mut();
            for ((found, rows), four) in found.zip(some.as_chunks::<4>().0).zip(fours) {
                for &name in soon.next().unwrap_or(&[]) {
                    at.prefetch_row(name);
                }
                // Written out: `map` over four of these is not inlined.
                let distances = if five {
                    [
                        at.node(four[0])?.distance(query),
                        at.node(four[1])?.distance(query),
                        at.node(four[2])?.distance(query),
                        at.node(four[3])?.distance(query),
                    ]
                } else {
                    let rows = [
                        at.row_of_bytes(four[0])?,
                        at.row_of_bytes(four[1])?,
                        at.row_of_bytes(four[2])?,
                        at.row_of_bytes(four[3])?,
                    ];
                    distances(query, rows)
                };
                for i in 0..4 {
                    found[i] = Entry::new(-distances[i], rows[i]);
                }
            }
            for ((found, &row), &name) in seen[left..].iter_mut().zip(&some[left..]).zip(rest) {
                *found = Entry::new(-at.node(name)?.distance(query), row);
            }
            collect.offer_all(seen);
            if count < SCANNED_TOGETHER {
                return Ok(());
            }
        }
    }
}
