//! Best-first walks over one level, and the descent to it.
//!
//! Reads links and vectors, allocates only in `Scratch`. HNSW, Malkov and Yashunin, Algorithms 2 and 5. Two walks: a
//! beam that returns what it routed by, and one that routes over all rows but collects only those that are accepted.

use super::{Graph, Layer, NONE};
use crate::error::Read;
use crate::queue::{Collect, Entry};
use crate::scratch::Scratch;
use crate::vectors::Probe;

/// Scores `fresh` slots four at a time and hands each over as an entry of its slot.
#[inline(always)]
fn score_fresh(
    layer: &impl Layer,
    probe: &Probe<'_>,
    fresh: &[u32],
    mut take: impl FnMut(Entry),
) -> Read<()> {
    let mut fours = fresh.chunks_exact(4);
    for four in &mut fours {
        let slots = [four[0], four[1], four[2], four[3]];
        let scores = probe.score4(slots.map(|slot| layer.row(slot)))?;
        for (slot, score) in slots.into_iter().zip(scores) {
            take(Entry::new(score, slot));
        }
    }
    for &slot in fours.remainder() {
        take(Entry::new(probe.score(layer.row(slot))?, slot));
    }
    Ok(())
}

/// Collects the neighbours of `slot` that were not visited, and asks for their vectors.
#[inline(always)]
fn gather(layer: &impl Layer, probe: &Probe<'_>, slot: u32, scratch: &mut Scratch) -> Read<()> {
    scratch.fresh.clear();
    let len = layer.slots();
    for &neighbour in layer.links(slot)? {
        if neighbour == NONE {
            break;
        }
        if neighbour as usize >= len {
            return Err(layer.broken(slot));
        }
        if scratch.visited.insert(neighbour) {
            probe.prefetch(layer.row(neighbour));
            scratch.fresh.push(neighbour);
        }
    }
    Ok(())
}

/// Walks a level with a beam of width `ef` from `starts`; the finds are in `scratch.beam`, best first.
pub fn beam(
    layer: &impl Layer,
    probe: &Probe<'_>,
    starts: &[u32],
    ef: usize,
    scratch: &mut Scratch,
) -> Read<()> {
    scratch.visited.reset(layer.slots());
    scratch.beam.reset(ef);
    for &start in starts {
        if scratch.visited.insert(start) {
            let entry = Entry::new(probe.score(layer.row(start))?, start);
            if entry > scratch.beam.floor() {
                scratch.beam.push(entry);
            }
        }
    }
    while let Some(best) = scratch.beam.pop() {
        gather(layer, probe, best.row(), scratch)?;
        if let Some(next) = scratch.beam.peek() {
            layer.prefetch(next.row());
        }
        let beam = &mut scratch.beam;
        score_fresh(layer, probe, &scratch.fresh, |entry| {
            if entry > beam.floor() {
                beam.push(entry);
            }
        })?;
    }
    Ok(())
}

/// What a walk that collects keeps to.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Rows that may be scored.
    pub budget: usize,
    /// Rows that are walked around as if they had never been linked.
    pub absent: &'a [u32],
}

/// Walks the bottom level, offering accepted rows to `collect`, until no open candidate can improve it.
///
/// Routing uses all rows; a row that is not accepted only leads on. Returns false if more rows than the
/// budget were scored before that, when a scan of the accepted rows is the cheaper way to the answer.
pub fn filtered(
    graph: &Graph,
    probe: &Probe<'_>,
    start: u32,
    accept: impl Fn(u32) -> bool,
    collect: &mut impl Collect,
    limits: Limits<'_>,
    scratch: &mut Scratch,
) -> Read<bool> {
    let layer = graph.base();
    scratch.visited.reset(layer.slots());
    scratch.frontier.clear();
    for &row in limits.absent {
        scratch.visited.insert(row);
    }
    scratch.visited.insert(start);
    let first = Entry::new(probe.score(start)?, start);
    scratch.frontier.push(first);
    if accept(start) {
        collect.offer(first);
    }
    while let Some(best) = scratch.frontier.pop() {
        if best < collect.floor() {
            break;
        }
        if scratch.visited.count() > limits.budget {
            return Ok(false);
        }
        gather(&layer, probe, best.row(), scratch)?;
        if let Some(next) = scratch.frontier.peek() {
            layer.prefetch(next.row());
        }
        let frontier = &mut scratch.frontier;
        score_fresh(&layer, probe, &scratch.fresh, |entry| {
            if entry > collect.floor() {
                frontier.push(entry);
                if accept(entry.row()) {
                    collect.offer(entry);
                }
            }
        })?;
    }
    Ok(true)
}

impl Graph {
    /// The slot of level `level` that a greedy descent from the top reaches.
    pub(super) fn descend(&self, probe: &Probe<'_>, level: usize) -> Read<u32> {
        let mut slot = if self.levels.is_empty() {
            self.entry
        } else {
            0
        };
        for (i, layer) in self.levels.iter().enumerate().rev() {
            if i + 1 == level {
                return Ok(slot);
            }
            let mut best = Entry::new(probe.score(layer.row(slot))?, slot);
            loop {
                let before = best;
                let links = layer.links(best.row())?;
                for &neighbour in super::real(links) {
                    if neighbour as usize >= layer.slots() {
                        return Err(layer.broken(best.row()));
                    }
                    let score = probe.score(layer.row(neighbour))?;
                    best = best.max(Entry::new(score, neighbour));
                }
                if best == before {
                    break;
                }
            }
            slot = layer.down[best.row() as usize];
        }
        Ok(slot)
    }

    /// The row at which a walk of the bottom level for this probe starts; None if the graph is empty.
    pub fn start(&self, probe: &Probe<'_>) -> Read<Option<u32>> {
        if self.entry == NONE {
            Ok(None)
        } else {
            self.descend(probe, 0).map(Some)
        }
    }
}
