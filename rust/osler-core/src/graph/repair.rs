//! Deletes and reachability: the graph without some of its rows, and a way to every row that is left.
//!
//! A deleted row's neighbours are joined through it, then the lists are pruned: Singh et al., FreshDiskANN, 2021
//! (arXiv 2105.09613), Algorithm 4. Rows that no path leads to are linked from the nearest node.

use rayon::prelude::*;

use super::assemble::DEGREE;
use super::bytes::ByteRows;
use super::frame::CodedRows;
use super::node::NONE;
use super::prune::{Pruner, Rule};
use super::scratch::Scratches;
use super::search::Effort;
use super::{Graph, edges, real};
use crate::chunks::Rows;
use crate::error::{Read, Result};
use crate::planted::{Bug, planted};
use crate::pool::Control;

/// Says in a table of new numbers that a row is gone.
pub const GONE: u32 = u32::MAX;

const CONNECT_PASSES: usize = 4;

/// How widely a node is looked for that can lead to one which is cut off.
const NEAREST: Effort = Effort { k: 10, ef: 40 };

impl Graph {
    /// The graph of the rows that stay, under their new numbers.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or damage of the file that blocks lie in.
    pub fn without(&self, new_row: &[u32], control: &Control) -> Result<Graph> {
        let stay: Vec<u32> = (0..new_row.len() as u32)
            .filter(|&row| new_row[row as usize] != GONE)
            .collect();
        let nodes: Vec<u32> = stay
            .iter()
            .map(|&row| self.node_of(row))
            .collect::<Read<_>>()?;
        let mut coded = CodedRows::zeroed(self.frame.padded(), stay.len());
        let mut space = Vec::new();
        for (i, &node) in nodes.iter().enumerate() {
            let own = self.coded(node, &mut space)?;
            coded.codes[i * own.codes.len()..][..own.codes.len()].copy_from_slice(own.codes);
            (coded.scales[i], coded.squares[i]) = (own.scale, own.square);
        }
        let mut edges: Vec<u32> = nodes
            .par_iter()
            .map(|&node| {
                control.check()?;
                self.joined(node, new_row)
            })
            .collect::<Result<Vec<_>>>()?
            .into_flattened();
        let bytes = ByteRows::new(self.frame.padded(), &coded.codes, &coded.scales)?;
        edges::add_ways_back(&bytes, &mut edges, DEGREE, &Rule::default(), |_| {
            control.check()
        })?;
        drop(bytes);
        edges::keep_dependants(&mut edges, DEGREE);
        let rows: Vec<u32> = (0..stay.len() as u32).collect();
        Graph::assemble(
            self.frame.clone(),
            &coded,
            &rows,
            &mut edges,
            stay.len(),
            self.seed,
            control,
        )
    }

    /// The links of a node that stay, with those through the nodes that go, as new rows.
    fn joined(&self, node: u32, new_row: &[u32]) -> Result<[u32; DEGREE]> {
        let stays = |other: u32| -> Result<bool> {
            if !self.exists(other) {
                return Err(self.broken(node).into());
            }
            Ok(new_row[self.row_of(other)? as usize] != GONE)
        };
        let mut list = Vec::new();
        let mut gone = Vec::new();
        for &other in self.node(node)?.links() {
            if stays(other)? {
                list.push(other)
            } else {
                gone.push(other)
            }
        }
        if !gone.is_empty() && !planted(Bug::RepairLeftOut) {
            for &through in &gone {
                for &other in self.node(through)?.links() {
                    if other != node && stays(other)? {
                        list.push(other);
                    }
                }
            }
            list.sort_unstable();
            list.dedup();
            list = Pruner::default()
                .of(self, node, &list, &Rule::default())?
                .collect();
        }
        let mut out = [NONE; DEGREE];
        for (out, &other) in out.iter_mut().zip(&list) {
            *out = new_row[self.row_of(other)? as usize];
        }
        Ok(out)
    }

    /// Links every row that no path from the roots leads to; returns how many there were.
    ///
    /// # Errors
    /// Damage of the file that blocks lie in.
    pub fn connect(&mut self, scratches: &Scratches) -> Result<usize> {
        let mut mended = 0;
        if planted(Bug::RepairLeftOut) {
            return Ok(mended);
        }
        // A link that makes room in a full list may have been the only way to a node: the next pass finds that.
        for _ in 0..CONNECT_PASSES {
            let found = self.connect_once(scratches)?;
            mended += found;
            if found == 0 {
                break;
            }
        }
        Ok(mended)
    }

    fn connect_once(&mut self, scratches: &Scratches) -> Result<usize> {
        let most = self.nodes[0].len().max(self.nodes[1].len());
        let mut reached = vec![false; 2 * most];
        let mut stack = Vec::new();
        for index in 0..self.roots.len() {
            stack.extend_from_slice(real(self.root(index)?.all()));
        }
        self.spread(&mut reached, &mut stack)?;
        let unreached: Vec<u32> = self
            .names()
            .filter(|&name| !reached[name as usize])
            .collect();
        let mut mended = 0;
        for name in unreached {
            if reached[name as usize] {
                continue;
            }
            let near = scratches.with(|scratch| {
                let mut space = Vec::new();
                let coded = self.coded(name, &mut space)?;
                scratch.query.set_row(coded, self.frame.blocks());
                self.walk(NEAREST, &[name], scratch)?;
                let near = scratch.top.entries().first().map(|e| e.row());
                near.map(|row| self.node_of(row)).transpose()
            })?;
            // The walk starts from the roots, so what it finds is reached.
            let Some(near) = near else { continue };
            self.force_link(near, name)?;
            mended += 1;
            stack.push(name);
            self.spread(&mut reached, &mut stack)?;
        }
        Ok(mended)
    }

    fn spread(&self, reached: &mut [bool], stack: &mut Vec<u32>) -> Result<()> {
        while let Some(name) = stack.pop() {
            if !self.exists(name) {
                continue;
            }
            reached[name as usize] = true;
            for &next in real(self.node(name)?.all()) {
                match reached.get_mut(next as usize) {
                    Some(seen) => {
                        if !std::mem::replace(seen, true) {
                            stack.push(next);
                        }
                    }
                    None => return Err(self.broken(name).into()),
                }
            }
        }
        Ok(())
    }
}

/// A table of new numbers for rows `0..len`, of which those that `stays` holds keep their order.
pub fn renumber(len: usize, stays: impl Fn(u32) -> bool) -> Vec<u32> {
    let mut next = 0;
    (0..len as u32)
        .map(|row| {
            let number = if stays(row) { next } else { GONE };
            next += u32::from(number != GONE);
            number
        })
        .collect()
}

/// The rows of `rows` that stay, in order.
///
/// # Errors
/// The damage, where a row lies in a damaged block of a file.
pub fn kept<T: bytemuck::Pod>(rows: &Rows<T>, new: &[u32]) -> Read<Rows<T>> {
    let mut out = Rows::new(rows.width());
    for (row, &to) in new.iter().enumerate() {
        if to != GONE {
            out.push(rows.row(row)?)?;
        }
    }
    Ok(out)
}
