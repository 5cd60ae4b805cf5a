//! Nodes that a walk has taken: their blocks are fetched while those before them are scored, then their neighbours are
//! estimated.
//!
//! Reads blocks; asks the processor for what is read soon.

use super::lookup::Lookup;
use super::node::{NONE, Node, estimates};
use super::query::Query;
use super::real;
use super::scratch::Visited;
use crate::error::Read;
use crate::queue::Entry;

/// A node is expanded so many turns after it was taken, so that its block comes while those before it are scored.
const AHEAD: usize = 2;

/// Names of nodes.
#[derive(Clone, Copy)]
pub(super) struct Names {
    names: [u32; 32],
    count: usize,
}

impl Default for Names {
    fn default() -> Self {
        Names {
            names: [NONE; 32],
            count: 0,
        }
    }
}

/// Nodes whose blocks are on their way, in a ring, and those of their neighbours whose fronts are.
#[derive(Default)]
pub(super) struct Coming {
    nodes: [Option<Entry>; AHEAD],
    fresh: [Names; AHEAD],
    at: usize,
}

impl Coming {
    /// The node that was taken in the last turn, and where its neighbours go.
    #[inline(always)]
    fn last(&mut self) -> (Option<Entry>, &mut Names) {
        let last = (self.at + AHEAD - 1) % AHEAD;
        (self.nodes[last], &mut self.fresh[last])
    }

    /// The neighbours of the node that was due in this turn.
    #[inline(always)]
    pub fn fresh(&self) -> &Names {
        &self.fresh[(self.at + AHEAD - 1) % AHEAD]
    }

    /// Takes the node whose block was just asked for, if there is one, and returns the one whose block is due.
    #[inline(always)]
    pub fn turn(&mut self, next: Option<Entry>) -> Option<Entry> {
        let due = std::mem::replace(&mut self.nodes[self.at], next);
        self.at = (self.at + 1) % AHEAD;
        due
    }

    /// Whether no node is on its way.
    #[inline(always)]
    pub fn is_empty(&self) -> bool {
        self.nodes.iter().all(Option::is_none)
    }

    /// Nodes that are on their way still.
    pub fn rest(&self) -> impl Iterator<Item = Entry> + '_ {
        self.nodes.iter().flatten().copied()
    }
}

/// A node whose block has come.
pub(super) struct Due<'a> {
    /// Its block.
    pub node: &'a Node<'a>,
    /// Squared distance of the query to it.
    pub distance: f32,
    /// Those of its neighbours whose fronts have come.
    pub fresh: &'a Names,
}

/// Estimates the neighbours of a node and hands those over that are below `limit` and were not seen before. False if a name
/// is that of no node.
///
/// # Errors
/// The damage, where a front lies in a damaged part of a file.
#[inline(always)]
pub(super) fn expand(
    at: &Lookup<'_>,
    due: &Due<'_>,
    limit: f32,
    query: &Query,
    visited: &mut Visited,
    mut take: impl FnMut(Entry),
) -> Read<bool> {
    if at.has_fronts() {
        return expand_single(at, due.fresh, limit, query, visited, take);
    }
    let mut estimates = [0.0; 32];
    let mut mask = due
        .node
        .estimates(query, due.distance, limit, &mut estimates);
    let names = due.node.all();
    while mask != 0 {
        let i = mask.trailing_zeros() as usize;
        mask &= mask - 1;
        let name = names[i];
        if !at.exists(name) {
            return Ok(false);
        }
        if visited.insert(name) {
            take(Entry::new(-estimates[i], name));
        }
    }
    Ok(true)
}

/// [`expand`] where the codes of neighbours are in their own fronts. An estimate depends on the query alone, so that
/// none has to be made twice.
#[inline(always)]
fn expand_single(
    at: &Lookup<'_>,
    fresh: &Names,
    limit: f32,
    query: &Query,
    visited: &mut Visited,
    mut take: impl FnMut(Entry),
) -> Read<bool> {
    let mut new = Names::default();
    for &name in &fresh.names[..fresh.count] {
        if !at.exists(name) {
            return Ok(false);
        }
        if visited.insert(name) {
            new.names[new.count] = name;
            new.count += 1;
        }
    }
    // Fewer than four are filled up with the last.
    if let Some(&last) = new.names[..new.count].last() {
        new.names[new.count..].fill(last);
    }
    for (i, names) in new.names.as_chunks::<4>().0.iter().enumerate() {
        if 4 * i >= new.count {
            break;
        }
        let fronts = [
            at.front(names[0])?,
            at.front(names[1])?,
            at.front(names[2])?,
            at.front(names[3])?,
        ];
        let estimates = estimates(fronts, query);
        let count = new.count - 4 * i;
        for (&name, estimate) in names.iter().zip(estimates).take(count) {
            if estimate < limit {
                take(Entry::new(-estimate, name));
            }
        }
    }
    Ok(true)
}

/// Asks for the fronts of the neighbours of the node whose block was asked for in the last turn.
#[inline(always)]
pub(super) fn prefetch_fronts(at: &Lookup<'_>, coming: &mut Coming, visited: &Visited) {
    let (last, fresh) = coming.last();
    fresh.count = 0;
    let Some(Ok(node)) = last.map(|last| at.node(last.row())) else {
        return;
    };
    for &name in real(node.all()) {
        // One that does not exist is found when it is read.
        let new = !at.exists(name) || !visited.contains(name);
        fresh.names[fresh.count & 31] = name;
        fresh.count += usize::from(new);
    }
    for &name in &fresh.names[..fresh.count] {
        at.prefetch_front(name);
    }
}
