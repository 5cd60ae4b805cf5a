//! Buffers of one search, kept between searches: the query, the beam, the marks of nodes seen.
//!
//! Marks are cleared by walking the list of what was marked, so a search costs nothing for the rows it did not visit.

use std::sync::Mutex;

use super::query::Query;
use crate::queue::{Entry, Frontier, Top};

/// What was visited.
#[derive(Debug, Default)]
pub struct Visited {
    words: Vec<u64>,
    marked: Vec<u32>,
}

impl Visited {
    /// Forgets all marks and makes room for `len` slots.
    pub fn reset(&mut self, len: usize) {
        for &slot in &self.marked {
            self.words[slot as usize >> 6] = 0;
        }
        self.marked.clear();
        if self.words.len() < len.div_ceil(64) {
            self.words.resize(len.div_ceil(64), 0);
        }
    }

    /// Marks a slot; whether it was new.
    #[inline(always)]
    pub fn insert(&mut self, slot: u32) -> bool {
        let word = &mut self.words[slot as usize >> 6];
        let bit = 1 << (slot & 63);
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        self.marked.push(slot);
        true
    }

    /// Whether a slot is marked.
    #[inline(always)]
    pub fn contains(&self, slot: u32) -> bool {
        self.words[slot as usize >> 6] & 1 << (slot & 63) != 0
    }

    /// How many slots are marked.
    pub fn count(&self) -> usize {
        self.marked.len()
    }
}

/// The buffers of one search.
#[derive(Debug, Default)]
pub struct Scratch {
    /// Open nodes of a walk.
    pub frontier: Frontier,
    /// The best estimates of a walk that has not yet found k nodes.
    pub early: Top,
    /// Finds of a walk or a scan.
    pub top: Top,
    /// Nodes that were seen.
    pub visited: Visited,
    /// Nodes that a walk starts from.
    pub starts: Top,
    /// Nodes just seen that may be collected, or are looked at once more.
    pub pending: Vec<Entry>,
    /// The query of a walk.
    pub query: Query,
}

/// Scratch buffers that wait for their next use.
#[derive(Debug, Default)]
pub struct Scratches {
    free: Mutex<Vec<Scratch>>,
}

impl Scratches {
    /// Runs `work` with buffers that nobody else has. Never waits: a lock that is held, in a forked child for ever,
    /// costs new buffers.
    pub fn with<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let free = self.free.try_lock().ok().and_then(|mut free| free.pop());
        let mut scratch = free.unwrap_or_default();
        let result = work(&mut scratch);
        if let Ok(mut free) = self.free.try_lock() {
            free.push(scratch);
        }
        result
    }
}
