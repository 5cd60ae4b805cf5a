//! Deletes and reachability: the graph without some of its rows, and a way to every row that is left.
//!
//! A deleted row's neighbours are joined through it, then the lists are pruned: Singh et al., FreshDiskANN, 2021
//! (arXiv 2105.09613), Algorithm 4. Rows that no path leads to are linked from the nearest row that has room.

use rayon::prelude::*;

use super::insert::{shortened, write};
use super::prune::Space;
use super::search::beam;
use super::{EF_CONSTRUCTION, Graph, Layer, Level, M, NONE, real};
use crate::chunks::Rows;
use crate::error::{Damage, Read, Result};
use crate::pool::Control;
use crate::scratch::Scratches;

/// Says in a table of new numbers that a row or slot is gone.
pub const GONE: u32 = u32::MAX;

const CONNECT_PASSES: usize = 4;

impl Graph {
    /// The graph of the rows that stay, under their new numbers; `old` has the old ones, `space` the new.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or damage of the file that rows or links lie in.
    pub fn without(
        &self,
        old: &impl Space,
        space: &impl Space,
        new_row: &[u32],
        control: &Control,
    ) -> Result<Graph> {
        let left = new_row.iter().filter(|&&row| row != GONE).count();
        let mut graph = Graph::new(left, self.seed);
        let base = joined(old, &self.base(), new_row, 2 * M, control)?;
        graph.fill(space, 0, &base)?;
        graph.entry = if left == 0 { NONE } else { 0 };
        let mut below = new_row.to_vec();
        for level in &self.levels {
            let mut next = 0;
            let slots: Vec<u32> = level
                .rows
                .iter()
                .map(|&row| {
                    let stays = new_row[row as usize] != GONE;
                    next += u32::from(stays);
                    if stays { next - 1 } else { GONE }
                })
                .collect();
            if next == 0 {
                break;
            }
            let mut new = Level::default();
            for (slot, &to) in slots.iter().enumerate() {
                if to != GONE {
                    new.push(
                        new_row[level.rows[slot] as usize],
                        below[level.down[slot] as usize],
                    )?;
                }
            }
            graph.levels.push(new);
            let lists = joined(old, level, &slots, M, control)?;
            let height = graph.height();
            graph.fill(space, height, &lists)?;
            below = slots;
        }
        Ok(graph)
    }

    /// Gives all slots of a level their links, and adds each link's way back where it is missing: a list that lost
    /// links has room, and a graph whose links go one way only is walked badly.
    fn fill(&mut self, space: &impl Space, level: usize, lists: &[Vec<u32>]) -> Result<()> {
        let links = match level {
            0 => &mut self.base,
            _ => &mut self.levels[level - 1].links,
        };
        for (slot, list) in lists.iter().enumerate() {
            write(links, slot as u32, list)?;
        }
        let both: Vec<(u32, &[u32])> = (0..).zip(lists.iter().map(Vec::as_slice)).collect();
        self.link(space, level, &both)
    }

    /// Links every row that no path from the entry leads to; returns how many there were.
    ///
    /// # Errors
    /// Damage of the file that rows or links lie in.
    pub fn connect(&mut self, space: &impl Space, scratches: &Scratches) -> Result<usize> {
        let mut mended = 0;
        // A link that makes room in a full list may have been the only way to a row: the next pass finds that.
        for _ in 0..CONNECT_PASSES {
            let found = self.connect_once(space, scratches)?;
            mended += found;
            if found == 0 {
                break;
            }
        }
        Ok(mended)
    }

    fn connect_once(&mut self, space: &impl Space, scratches: &Scratches) -> Result<usize> {
        if self.base.is_empty() {
            return Ok(0);
        }
        let mut reached = vec![false; self.base.len()];
        let mut stack = vec![self.bottom_entry()];
        self.spread(&mut reached, &mut stack)?;
        let mut mended = 0;
        for row in 0..self.base.len() as u32 {
            if !reached[row as usize] {
                let from = scratches.with(|scratch| {
                    let mut vector = std::mem::take(&mut scratch.vector);
                    let probe = space.probe(row, &mut vector)?;
                    let start = self.descend(&probe, 0)?;
                    beam(&self.base(), &probe, &[start], EF_CONSTRUCTION, scratch)?;
                    let near: Vec<u32> = scratch
                        .beam
                        .entries()
                        .map(|e| e.row())
                        .filter(|&r| reached[r as usize])
                        .collect();
                    let mut roomy = None;
                    for &candidate in &near {
                        if real(self.base.row(candidate as usize)?).len() < 2 * M {
                            roomy = Some(candidate);
                            break;
                        }
                    }
                    scratch.vector = vector;
                    Ok::<_, Box<Damage>>(roomy.or(near.first().copied()))
                })?;
                // The beam starts from the entry, so what it finds is reached, unless that itself is cut off.
                let from = from.unwrap_or_else(|| self.bottom_entry());
                let mut list = real(self.base.row(from as usize)?).to_vec();
                if list.len() == 2 * M {
                    // The farthest link of a full list makes room.
                    list.pop();
                }
                list.push(row);
                write(&mut self.base, from, &list)?;
                mended += 1;
                reached[row as usize] = true;
                stack.push(row);
                self.spread(&mut reached, &mut stack)?;
            }
        }
        Ok(mended)
    }

    /// The row below the top of the graph, where a walk of the bottom level can start.
    fn bottom_entry(&self) -> u32 {
        self.levels.last().map_or(self.entry, |top| top.rows[0])
    }

    fn spread(&self, reached: &mut [bool], stack: &mut Vec<u32>) -> Result<()> {
        while let Some(row) = stack.pop() {
            reached[row as usize] = true;
            for &next in real(self.base.row(row as usize)?) {
                if !std::mem::replace(&mut reached[next as usize], true) {
                    stack.push(next);
                }
            }
        }
        Ok(())
    }
}

/// The lists of the slots that stay, in their order, with links through the slots that go, under the new numbers.
fn joined(
    space: &impl Space,
    layer: &impl Layer,
    new: &[u32],
    most: usize,
    control: &Control,
) -> Result<Vec<Vec<u32>>> {
    let stay: Vec<u32> = (0..layer.slots() as u32)
        .filter(|&slot| new[slot as usize] != GONE)
        .collect();
    stay.par_iter()
        .map(|&slot| {
            control.check()?;
            let links = real(layer.links(slot)?);
            let (mut list, gone): (Vec<u32>, Vec<u32>) =
                links.iter().partition(|&&l| new[l as usize] != GONE);
            if !gone.is_empty() {
                for other in gone {
                    list.extend(
                        real(layer.links(other)?)
                            .iter()
                            .filter(|&&l| l != slot && new[l as usize] != GONE),
                    );
                }
                list.sort_unstable();
                list.dedup();
                list = shortened(space, layer, slot, list, most)?;
            }
            Ok(list.into_iter().map(|l| new[l as usize]).collect())
        })
        .collect()
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
