//! Insertion of rows in batches that grow with the graph, without locks: the same graph at any number of threads.
//!
//! Each batch is searched in parallel against the graph as it was, then merged in the order of its rows. Manohar et al.,
//! ParlayANN, PPoPP 2024 (arXiv 2305.04359), section 3.1, over HNSW's Algorithm 1.

use rayon::prelude::*;

use super::frame::{Coded, Frame};
use super::node::{Encoder, Layout, index_of_name, name, size_of_name, slots};
use super::prune::{Pruner, Rule};
use super::scratch::{Scratch, Scratches};
use super::search::Effort;
use super::{Graph, real};
use crate::error::{Read, Result};
use crate::pool::Control;

/// Candidates of which an inserted row's neighbours are chosen, and how widely they are looked for.
const CANDIDATES: Effort = Effort { k: 40, ef: 80 };

/// A batch is at most this share of the graph, so that few rows miss each other.
const BATCH_SHARE: usize = 32;
const MAX_BATCH: usize = 2048;

/// Links of a new row up to which it gets a small block, so that as many again can lead back to it.
const FEW: usize = slots(0) / 2;

/// Reads the vectors that a graph is made of, in its frame's numbers.
pub trait Source: Sync {
    /// Numbers of a vector, a lift included.
    fn dim(&self) -> usize;
    /// Writes out a row.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    fn read(&self, row: u32, out: &mut [f32]) -> Read<()>;
}

/// A row that has found its neighbours.
struct Found {
    block: Vec<u32>,
    size: usize,
    links: Vec<u32>,
}

impl Graph {
    /// Links `rows`, which the source has.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or damage of the file that blocks lie in; the graph is then unusable.
    pub fn insert(
        &mut self,
        source: &impl Source,
        rows: &[u32],
        scratches: &Scratches,
        control: &Control,
    ) -> Result<()> {
        let [small, large] = self.sizes();
        let before = small + large;
        let mut linked = before;
        let mut rest = rows;
        while !rest.is_empty() {
            control.check()?;
            let size = (linked / BATCH_SHARE).clamp(1, MAX_BATCH).min(rest.len());
            let (batch, after) = rest.split_at(size);
            self.insert_batch(source, batch, scratches)?;
            linked += size;
            rest = after;
            control.advance(size);
        }
        // The sample of a graph that has doubled says too little of its new half.
        if linked.ilog2() > before.max(1).ilog2() {
            self.take_roots()?;
        }
        Ok(())
    }

    fn insert_batch(
        &mut self,
        source: &impl Source,
        batch: &[u32],
        scratches: &Scratches,
    ) -> Result<()> {
        let this = &*self;
        let find = |&row: &u32| scratches.with(|scratch| this.found(source, row, scratch));
        let found: Vec<Found> = if batch.len() == 1 {
            batch.iter().map(find).collect::<Read<_>>()?
        } else {
            batch.par_iter().map(find).collect::<Read<_>>()?
        };
        let highest = batch.iter().max().map_or(0, |&row| row as usize + 1);
        self.grow(highest)?;
        let mut back: Vec<(u32, u32)> = Vec::new();
        for (found, &row) in found.iter().zip(batch) {
            let new = name(found.size, self.nodes[found.size].len());
            self.push(found.size, &found.block, row)?;
            self.node_of.row_mut(row as usize)?[0] = new;
            back.extend(found.links.iter().map(|&other| (other, new)));
        }
        self.link_back(back)
    }

    /// Whether `owner` is the nearest neighbour of a node, and so where a walk towards that one ends.
    fn depends(&self, node: u32, owner: u32) -> Read<bool> {
        Ok(self.node(node)?.links().first() == Some(&owner))
    }

    /// Puts into `list`, the links of `owner`, those of `dropped` that depend on it; the farthest that do not make room.
    fn keep_dependants(&self, owner: u32, list: &mut [u32], dropped: &[u32]) -> Read<()> {
        for &node in dropped {
            if !self.depends(node, owner)? {
                continue;
            }
            for i in (0..list.len()).rev() {
                if !self.depends(list[i], owner)? {
                    list[i] = node;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Gives `from` a link to `to`; the farthest link of a full list makes room.
    pub(super) fn force_link(&mut self, from: u32, to: u32) -> Read<()> {
        let mut list = self.node(from)?.links().to_vec();
        if list.len() < slots(size_of_name(from)) {
            list.push(to);
        } else {
            let mut victim = list.len() - 1;
            while victim > 0 && self.depends(list[victim], from)? {
                victim -= 1;
            }
            list[victim] = to;
        }
        let block = self.block_of(from, list)?;
        self.store(from, &block)
    }

    /// The block of a row that is not linked yet, with its neighbours in it.
    fn found(&self, source: &impl Source, row: u32, scratch: &mut Scratch) -> Read<Found> {
        let mut vector = vec![0.0; source.dim()];
        source.read(row, &mut vector)?;
        scratch.query.prepare(&self.frame, &vector, 1.0, None);
        let mut codes = vec![0; self.frame.padded()];
        let [scale, square] = Frame::encode(scratch.query.turned(), &mut codes);
        let own = Coded {
            codes: &codes,
            scale,
            square,
        };
        self.walk(CANDIDATES, &[], scratch)?;
        let found = scratch
            .top
            .entries()
            .iter()
            .map(|e| Ok((-e.score(), self.node_of(e.row())?)))
            .collect::<Read<Vec<(f32, u32)>>>()?;
        let links: Vec<u32> = Pruner::default()
            .of_measured(self, found.into_iter(), &Rule::within(slots(0)))?
            .collect();
        let size = usize::from(links.len() > FEW);
        let layout = self.layout(size);
        let mut all = links.clone();
        if layout.is_fused() {
            self.random_names(&mut all, slots(size), row);
        }
        let block = self.encoded(layout, row, own, links.len(), &all)?;
        Ok(Found { block, size, links })
    }

    /// Adds links, (from, to), shortening lists that overflow.
    fn link_back(&mut self, mut links: Vec<(u32, u32)>) -> Result<()> {
        links.sort_unstable();
        links.dedup();
        let runs: Vec<&[(u32, u32)]> = links.chunk_by(|a, b| a.0 == b.0).collect();
        let this = &*self;
        let merge = |run: &&[(u32, u32)]| this.with_links(run[0].0, run.iter().map(|&(_, to)| to));
        let blocks: Vec<Vec<u32>> = if runs.len() < 64 {
            runs.iter().map(merge).collect::<Read<_>>()?
        } else {
            runs.par_iter().map(merge).collect::<Read<_>>()?
        };
        for (run, block) in runs.iter().zip(&blocks) {
            self.store(run[0].0, block)?;
        }
        Ok(())
    }

    /// The block of a node with more links.
    fn with_links(&self, owner: u32, new: impl Iterator<Item = u32>) -> Read<Vec<u32>> {
        let node = self.node(owner)?;
        let mut list = node.links().to_vec();
        list.extend(new.filter(|other| !node.links().contains(other)));
        let most = slots(size_of_name(owner));
        if list.len() > most {
            let kept: Vec<u32> = Pruner::default()
                .of(self, owner, &list, &Rule::within(most))?
                .collect();
            list.retain(|node| !kept.contains(node));
            let dropped = std::mem::replace(&mut list, kept);
            self.keep_dependants(owner, &mut list, &dropped)?;
        }
        self.block_of(owner, list)
    }

    /// The block of a node with `list` as its links; random neighbours that it has keep the places that are left.
    pub(super) fn block_of(&self, owner: u32, mut list: Vec<u32>) -> Read<Vec<u32>> {
        let size = size_of_name(owner);
        let (layout, node) = (self.layout(size), self.node(owner)?);
        let links = list.len();
        for &other in real(node.all()).iter().skip(node.count()) {
            if list.len() < slots(size) && !list.contains(&other) {
                list.push(other);
            }
        }
        let mut space = Vec::new();
        self.encoded(layout, node.row(), node.coded(&mut space), links, &list)
    }

    /// The block of `row`, whose neighbours are nodes of the graph.
    fn encoded(
        &self,
        layout: Layout,
        row: u32,
        own: Coded<'_>,
        real: usize,
        names: &[u32],
    ) -> Read<Vec<u32>> {
        let mut block = vec![0; layout.front() + layout.body()];
        let mut space = Vec::new();
        let mut encoder = Encoder::default();
        encoder.begin(&mut block, layout, row, own, real, names);
        if layout.is_fused() {
            for (i, &other) in names.iter().enumerate() {
                encoder.neighbour(&mut block, layout, i, self.coded(other, &mut space)?);
            }
        }
        Ok(block)
    }

    /// Overwrites the block of a node.
    pub(super) fn store(&mut self, node: u32, block: &[u32]) -> Read<()> {
        let (size, index) = (size_of_name(node), index_of_name(node));
        let mut body = block;
        if let Some(fronts) = &mut self.fronts {
            let (front, rest) = block.split_at(fronts[size].width());
            fronts[size].row_mut(index)?.copy_from_slice(front);
            body = rest;
        }
        self.nodes[size].row_mut(index)?.copy_from_slice(body);
        Ok(())
    }
}
