//! Insertion of rows in batches that grow with the graph, without locks: the same graph at any number of threads.
//!
//! Each batch is searched in parallel against the graph as it was, then merged in the order of its rows. Manohar et al.,
//! ParlayANN, PPoPP 2024 (arXiv 2305.04359), section 3.1, over HNSW's Algorithm 1.

use rayon::prelude::*;

use super::prune::{Space, select};
use super::search::beam;
use super::{EF_CONSTRUCTION, Graph, Layer, Level, M, NONE, real};
use crate::chunks::Rows;
use crate::error::{Read, Result};
use crate::pool::Control;
use crate::scratch::{Scratch, Scratches};

/// A batch is at most this share of the graph, so that few rows miss each other.
const BATCH_SHARE: usize = 32;
const MAX_BATCH: usize = 2048;

/// A row's neighbours at each level that it enters, from the bottom, as slots.
type Found = Vec<Vec<u32>>;

impl Graph {
    /// Links `rows`, whose vectors are in the space and whose base slots exist.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or damage of the file that the vectors lie in; the graph is then unusable.
    pub fn insert(
        &mut self,
        space: &impl Space,
        rows: &[u32],
        scratches: &Scratches,
        control: &Control,
    ) -> Result<()> {
        let mut linked = if self.entry == NONE {
            0
        } else {
            self.base.len().saturating_sub(rows.len())
        };
        let mut rest = rows;
        while !rest.is_empty() {
            control.check()?;
            let size = (linked / BATCH_SHARE).clamp(1, MAX_BATCH).min(rest.len());
            // A row that opens a level goes alone, so that it is linked to nothing only where nothing is.
            let tall = rest[..size]
                .iter()
                .position(|&row| self.height_of(row) > self.height());
            let size = match tall {
                Some(0) | None if self.entry == NONE => 1,
                Some(0) => 1,
                Some(at) => at,
                None => size,
            };
            let (batch, after) = rest.split_at(size);
            self.insert_batch(space, batch, scratches)?;
            linked += size;
            rest = after;
            control.advance(size);
        }
        Ok(())
    }

    fn insert_batch(
        &mut self,
        space: &impl Space,
        batch: &[u32],
        scratches: &Scratches,
    ) -> Result<()> {
        if self.entry == NONE {
            self.entry = batch[0];
            self.raise(batch[0]);
            return Ok(());
        }
        let find = |&row: &u32| scratches.with(|scratch| self.neighbours(space, row, scratch));
        let found: Vec<Found> = if batch.len() == 1 {
            batch.iter().map(find).collect::<Read<_>>()?
        } else {
            batch.par_iter().map(find).collect::<Read<_>>()?
        };
        let mut slots: Vec<u32> = batch.to_vec();
        for level in 0..=self.height() {
            let mut lists = Vec::with_capacity(batch.len());
            for (i, (&row, found)) in batch.iter().zip(&found).enumerate() {
                let Some(neighbours) = found.get(level) else {
                    continue;
                };
                if level > 0 {
                    let layer = &mut self.levels[level - 1];
                    layer.push(row, slots[i])?;
                    slots[i] = layer.slots() as u32 - 1;
                }
                lists.push((slots[i], neighbours.as_slice()));
            }
            self.link(space, level, &lists)?;
        }
        if let [row] = batch {
            self.raise(*row);
        }
        Ok(())
    }

    /// Opens the levels that a row reaches above the highest.
    fn raise(&mut self, row: u32) {
        for height in self.height()..self.height_of(row) {
            let mut level = Level::default();
            let down = if height == 0 {
                row
            } else {
                self.levels[height - 1].slots() as u32 - 1
            };
            level
                .push(row, down)
                .unwrap_or_else(|_| unreachable!("a new level has no file behind it"));
            self.levels.push(level);
        }
    }

    /// The neighbours that a row gets at each level that exists and that it reaches.
    fn neighbours(&self, space: &impl Space, row: u32, scratch: &mut Scratch) -> Read<Found> {
        let mut vector = std::mem::take(&mut scratch.vector);
        let probe = space.probe(row, &mut vector)?;
        let highest = self.height_of(row).min(self.height());
        let mut found = vec![Vec::new(); highest + 1];
        let mut start = self.descend(&probe, highest)?;
        for level in (0..=highest).rev() {
            let mut pick = |layer: &dyn AnyLayer, scratch: &mut Scratch| -> Read<u32> {
                layer.walk(&probe, start, scratch)?;
                let candidates: Vec<(f32, u32)> = scratch
                    .beam
                    .entries()
                    .map(|e| (space.distance(e.score()), layer.row_of(e.row())))
                    .collect();
                let slots: Vec<u32> = scratch.beam.entries().map(|e| e.row()).collect();
                found[level] = select(space, &candidates, M)?
                    .into_iter()
                    .map(|i| slots[i])
                    .collect();
                Ok(slots[0])
            };
            if level == 0 {
                pick(&self.base(), scratch)?;
            } else {
                let layer = &self.levels[level - 1];
                start = layer.down[pick(layer, scratch)? as usize];
            }
        }
        scratch.vector = vector;
        Ok(found)
    }

    /// Gives the slots of `lists` their links and adds the links back, shortening lists that overflow.
    pub(super) fn link(
        &mut self,
        space: &impl Space,
        level: usize,
        lists: &[(u32, &[u32])],
    ) -> Result<()> {
        let mut back: Vec<(u32, u32)> = lists
            .iter()
            .flat_map(|&(slot, links)| links.iter().map(move |&other| (other, slot)))
            .collect();
        back.sort_unstable();
        let runs: Vec<&[(u32, u32)]> = back.chunk_by(|a, b| a.0 == b.0).collect();
        let this = &*self;
        let merge = |run: &&[(u32, u32)]| match level {
            0 => merged(space, &this.base(), run, 2 * M),
            _ => merged(space, &this.levels[level - 1], run, M),
        };
        let new: Vec<Vec<u32>> = if runs.len() < 64 {
            runs.iter().map(merge).collect::<Read<_>>()?
        } else {
            runs.par_iter().map(merge).collect::<Read<_>>()?
        };
        let links = if level == 0 {
            &mut self.base
        } else {
            &mut self.levels[level - 1].links
        };
        for &(slot, list) in lists {
            write(links, slot, list)?;
        }
        for (run, list) in runs.iter().zip(&new) {
            write(links, run[0].0, list)?;
        }
        Ok(())
    }
}

/// A layer behind a pointer, for the code that runs once a level.
trait AnyLayer {
    fn walk(
        &self,
        probe: &crate::vectors::Probe<'_>,
        start: u32,
        scratch: &mut Scratch,
    ) -> Read<()>;
    fn row_of(&self, slot: u32) -> u32;
}

impl<L: Layer> AnyLayer for L {
    fn walk(
        &self,
        probe: &crate::vectors::Probe<'_>,
        start: u32,
        scratch: &mut Scratch,
    ) -> Read<()> {
        beam(self, probe, &[start], EF_CONSTRUCTION, scratch)
    }

    fn row_of(&self, slot: u32) -> u32 {
        self.row(slot)
    }
}

impl Level {
    pub(super) fn push(&mut self, row: u32, down: u32) -> Read<()> {
        self.links.push(&[NONE; M])?;
        self.rows.push(row);
        self.down.push(down);
        Ok(())
    }
}

/// Overwrites the links of a slot.
pub(super) fn write(table: &mut Rows<u32>, slot: u32, list: &[u32]) -> Read<()> {
    let links = table.row_mut(slot as usize)?;
    links[..list.len()].copy_from_slice(list);
    links[list.len()..].fill(NONE);
    Ok(())
}

/// The links of the slot that `run` leads back to, with the new ones, at most `most`.
fn merged(
    space: &impl Space,
    layer: &impl Layer,
    run: &[(u32, u32)],
    most: usize,
) -> Read<Vec<u32>> {
    let slot = run[0].0;
    let mut list = real(layer.links(slot)?).to_vec();
    let new = run.iter().map(|&(_, other)| other);
    list.extend(new.filter(|other| !real(layer.links(slot).unwrap_or(&[])).contains(other)));
    if list.len() <= most {
        return Ok(list);
    }
    shortened(space, layer, slot, list, most)
}

/// At most `most` of `list`, as the links of `slot`.
pub(super) fn shortened(
    space: &impl Space,
    layer: &impl Layer,
    slot: u32,
    list: Vec<u32>,
    most: usize,
) -> Read<Vec<u32>> {
    let mut buffer = Vec::new();
    let probe = space.probe(layer.row(slot), &mut buffer)?;
    let mut candidates = Vec::with_capacity(list.len());
    for other in list {
        candidates.push((space.distance(probe.score(layer.row(other))?), other));
    }
    candidates.sort_unstable_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let rows: Vec<(f32, u32)> = candidates
        .iter()
        .map(|&(distance, other)| (distance, layer.row(other)))
        .collect();
    Ok(select(space, &rows, most)?
        .into_iter()
        .map(|i| candidates[i].1)
        .collect())
}
