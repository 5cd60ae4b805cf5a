//! Lists of scored rows: the top k, the top k with a limit per group, and the open candidates of a walk.
//!
//! A row and its score are one `u64` that sorts by score, then by row, so the order is total and the same everywhere.

use std::collections::{BTreeMap, BTreeSet};

use crate::group::GroupId;

/// Rows are numbered below this.
pub const MAX_ROWS: u32 = (1 << 31) - 1;

/// A scored row; greater is better: a higher score, or the same score and a lower row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Entry(u64);

impl Entry {
    /// Less than every real entry.
    pub const NONE: Entry = Entry(0);

    /// Packs a finite score and a row.
    #[inline(always)]
    pub fn new(score: f32, row: u32) -> Self {
        // -0.0 and 0.0 are the same score, so they must be the same bits.
        let bits = (score + 0.0).to_bits();
        let ordered = if bits >> 31 == 0 {
            bits | 0x8000_0000
        } else {
            !bits
        };
        Entry((u64::from(ordered) << 32) | (u64::from(MAX_ROWS - row) << 1))
    }

    /// The score.
    #[inline(always)]
    pub fn score(self) -> f32 {
        let ordered = (self.0 >> 32) as u32;
        f32::from_bits(if ordered >> 31 == 1 {
            ordered & 0x7fff_ffff
        } else {
            !ordered
        })
    }

    /// The row.
    #[inline(always)]
    pub fn row(self) -> u32 {
        MAX_ROWS - ((self.0 >> 1) as u32 & MAX_ROWS)
    }
}

/// What a search offers its finds to.
pub trait Collect {
    /// Takes an entry if it is good enough.
    fn offer(&mut self, entry: Entry);
    /// Takes those of many entries that are good enough; leaves them in any order.
    fn offer_all(&mut self, entries: &mut [Entry]) {
        offer_each(self, entries);
    }
    /// An entry at or below this changes nothing; [`Entry::NONE`] while there is room.
    fn floor(&self) -> Entry;
    /// The k-th best entry, k being at most the capacity, or the floor where that is not known as quickly.
    fn kth(&self, _k: usize) -> Entry {
        self.floor()
    }
}

fn offer_each(collect: &mut (impl Collect + ?Sized), entries: &[Entry]) {
    let mut floor = collect.floor();
    for &entry in entries {
        if entry > floor {
            collect.offer(entry);
            floor = collect.floor();
        }
    }
}

/// The best `capacity` entries, best first.
#[derive(Debug, Default)]
pub struct Top {
    entries: Vec<Entry>,
    capacity: usize,
}

impl Top {
    /// An empty list; `capacity` must not be 0.
    pub fn with_capacity(capacity: usize) -> Self {
        Top {
            entries: Vec::new(),
            capacity,
        }
    }

    /// Empties the list and sets its capacity, which must not be 0.
    pub fn reset(&mut self, capacity: usize) {
        self.entries.clear();
        self.capacity = capacity;
    }

    /// The entries, best first.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }
}

/// Up to this capacity an entry moves down a list place by place, without a branch that could not be foretold.
const SHORT: usize = 24;

impl Collect for Top {
    #[inline]
    fn offer(&mut self, entry: Entry) {
        if self.entries.len() == self.capacity {
            if entry <= self.entries[self.capacity - 1] {
                return;
            }
            self.entries.pop();
        }
        if self.capacity <= SHORT {
            let mut moved = entry.0;
            for place in &mut self.entries {
                let better = place.0.max(moved);
                moved = place.0.min(moved);
                place.0 = better;
            }
            self.entries.push(Entry(moved));
        } else {
            let at = self.entries.partition_point(|&e| e > entry);
            self.entries.insert(at, entry);
        }
    }

    fn offer_all(&mut self, entries: &mut [Entry]) {
        if !self.entries.is_empty() || entries.len() <= self.capacity {
            return offer_each(self, entries);
        }
        // One by one, most of the first would move others down only to be moved out themselves.
        entries.select_nth_unstable_by(self.capacity - 1, |a, b| b.cmp(a));
        self.entries.extend_from_slice(&entries[..self.capacity]);
        self.entries.sort_unstable_by(|a, b| b.cmp(a));
    }

    #[inline]
    fn floor(&self) -> Entry {
        self.kth(self.capacity)
    }

    #[inline]
    fn kth(&self, k: usize) -> Entry {
        self.entries.get(k - 1).copied().unwrap_or(Entry::NONE)
    }
}

/// The best `capacity` entries, in no order until they are taken out; for capacities in the thousands.
#[derive(Debug)]
pub struct Many {
    entries: Vec<Entry>,
    capacity: usize,
    floor: Entry,
}

impl Many {
    /// An empty list; `capacity` must not be 0.
    pub fn new(capacity: usize) -> Self {
        Many {
            entries: Vec::new(),
            capacity,
            floor: Entry::NONE,
        }
    }

    /// The entries, best first.
    pub fn into_entries(mut self) -> Vec<Entry> {
        self.entries.sort_unstable_by(|a, b| b.cmp(a));
        self.entries.truncate(self.capacity);
        self.entries
    }
}

impl Collect for Many {
    fn offer(&mut self, entry: Entry) {
        self.entries.push(entry);
        if self.entries.len() == 2 * self.capacity {
            let (_, worst, _) = self
                .entries
                .select_nth_unstable_by(self.capacity - 1, |a, b| b.cmp(a));
            self.floor = *worst;
            self.entries.truncate(self.capacity);
        }
    }

    fn floor(&self) -> Entry {
        self.floor
    }
}

/// The best `capacity` entries of which at most `size` share a group, best first.
#[derive(Debug)]
pub struct GroupedTop<'a> {
    kept: Kept,
    capacity: usize,
    size: usize,
    groups: &'a [GroupId],
}

/// From this capacity on trees cost less than a list that every offer reads: measured on 60,000 offers.
const TREES_FROM: usize = 512;

#[derive(Debug)]
enum Kept {
    /// Best first, with their groups.
    List(Vec<(Entry, GroupId)>),
    /// All, and those of each group.
    Trees(BTreeSet<Entry>, BTreeMap<GroupId, BTreeSet<Entry>>),
}

impl<'a> GroupedTop<'a> {
    /// An empty list over rows whose groups are `groups`; neither `capacity` nor `size` may be 0.
    pub fn new(capacity: usize, size: usize, groups: &'a [GroupId]) -> Self {
        GroupedTop {
            kept: if capacity < TREES_FROM {
                Kept::List(Vec::with_capacity(capacity + 1))
            } else {
                Kept::Trees(BTreeSet::new(), BTreeMap::new())
            },
            capacity,
            size,
            groups,
        }
    }

    /// The entries, best first.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        let (list, trees) = match &self.kept {
            Kept::List(list) => (&list[..], None),
            Kept::Trees(all, _) => (&[][..], Some(all)),
        };
        let listed = list.iter().map(|&(entry, _)| entry);
        listed.chain(trees.into_iter().flat_map(|all| all.iter().rev().copied()))
    }
}

impl Collect for GroupedTop<'_> {
    fn offer(&mut self, entry: Entry) {
        if entry <= self.floor() {
            return;
        }
        let group = self.groups[entry.row() as usize];
        match &mut self.kept {
            Kept::List(list) => offer_to_list(list, self.capacity, self.size, entry, group),
            Kept::Trees(all, of_group) => {
                let own = of_group.entry(group).or_default();
                if own.len() == self.size {
                    if own.first().is_some_and(|worst| entry <= *worst) {
                        return;
                    }
                    if let Some(worst) = own.pop_first() {
                        all.remove(&worst);
                    }
                }
                own.insert(entry);
                all.insert(entry);
                if all.len() > self.capacity
                    && let Some(worst) = all.pop_first()
                {
                    let group = self.groups[worst.row() as usize];
                    if let Some(own) = of_group.get_mut(&group) {
                        own.remove(&worst);
                        if own.is_empty() {
                            of_group.remove(&group);
                        }
                    }
                }
            }
        }
    }

    #[inline]
    fn floor(&self) -> Entry {
        match &self.kept {
            Kept::List(list) if list.len() == self.capacity => list[self.capacity - 1].0,
            Kept::Trees(all, _) if all.len() == self.capacity => {
                all.first().copied().unwrap_or(Entry::NONE)
            }
            _ => Entry::NONE,
        }
    }

    #[inline]
    fn kth(&self, k: usize) -> Entry {
        match &self.kept {
            Kept::List(list) => list.get(k - 1).map_or(Entry::NONE, |&(entry, _)| entry),
            Kept::Trees(..) => self.floor(),
        }
    }
}

fn offer_to_list(
    list: &mut Vec<(Entry, GroupId)>,
    capacity: usize,
    size: usize,
    entry: Entry,
    group: GroupId,
) {
    let mut of_group = 0;
    let mut worst = None;
    for (i, &(_, other)) in list.iter().enumerate() {
        if other == group {
            of_group += 1;
            worst = Some(i);
        }
    }
    if let (true, Some(i)) = (of_group == size, worst) {
        if entry <= list[i].0 {
            return;
        }
        list.remove(i);
    } else if list.len() == capacity {
        list.pop();
    }
    let at = list.partition_point(|&(e, _)| e > entry);
    list.insert(at, (entry, group));
}

/// Buckets of a frontier: so many powers of two of distances, each in as many parts as so many bits tell apart.
const BUCKETS: usize = 16 << PART_BITS;
const PART_BITS: u32 = 6;

/// The least distance that has a bucket of its own, 2^-13; closer ones share it.
const LEAST: f32 = 1.0 / 8192.0;

/// Ends the list of a bucket.
const END: u32 = u32::MAX;

/// The open candidates of a best-first walk in buckets of distances that differ by less than 2 %, the last one put in first:
/// to sort what is estimated more finely than its error would cost more and give nothing.
#[derive(Debug)]
pub struct Frontier {
    /// An entry, and the one below it in its bucket.
    entries: Vec<(Entry, u32)>,
    /// The entry on top of each bucket that is not empty.
    tops: [u32; BUCKETS],
    /// A bit for each bucket that is not empty, and the first word that may have one.
    filled: [u64; BUCKETS / 64],
    first: usize,
}

impl Default for Frontier {
    fn default() -> Self {
        Frontier {
            entries: Vec::new(),
            tops: [END; BUCKETS],
            filled: [0; BUCKETS / 64],
            first: 0,
        }
    }
}

impl Frontier {
    /// Forgets all entries.
    pub fn clear(&mut self) {
        self.entries.clear();
        self.filled = [0; BUCKETS / 64];
        self.first = 0;
    }

    /// Takes an entry, whose score is minus a distance.
    #[inline(always)]
    pub fn push(&mut self, entry: Entry) {
        // The bits of positive floats are in the order of the floats.
        let part = |distance: f32| distance.to_bits() >> (f32::MANTISSA_DIGITS - 1 - PART_BITS);
        let bucket = part((-entry.score()).max(LEAST)) - part(LEAST);
        let bucket = (bucket as usize).min(BUCKETS - 1);
        let (word, bit) = (bucket / 64, 1 << (bucket % 64));
        let below = if self.filled[word] & bit == 0 {
            END
        } else {
            self.tops[bucket]
        };
        self.tops[bucket] = self.entries.len() as u32;
        self.entries.push((entry, below));
        self.filled[word] |= bit;
        self.first = self.first.min(word);
    }

    /// Takes the best entry out, or one that is about as good.
    #[inline(always)]
    pub fn pop(&mut self) -> Option<Entry> {
        while *self.filled.get(self.first)? == 0 {
            self.first += 1;
        }
        let word = self.filled[self.first];
        let bucket = 64 * self.first + word.trailing_zeros() as usize;
        let (entry, below) = self.entries[self.tops[bucket] as usize];
        self.tops[bucket] = below;
        if below == END {
            self.filled[self.first] = word & (word - 1);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_sort_by_score_then_row_and_give_both_back() {
        let mut entries: Vec<Entry> = [
            (1.0, 5),
            (-2.5, 0),
            (1.0, 4),
            (0.0, 7),
            (-0.0, 6),
            (f32::MIN, 1),
            (f32::MAX, MAX_ROWS),
        ]
        .map(|(score, row)| Entry::new(score, row))
        .to_vec();
        entries.sort_unstable_by(|a, b| b.cmp(a));
        let rows: Vec<u32> = entries.iter().map(|e| e.row()).collect();
        assert_eq!(rows, [MAX_ROWS, 4, 5, 6, 7, 0, 1]);
        assert_eq!(entries[5].score(), -2.5);
        assert!(*entries.last().unwrap() > Entry::NONE);
    }

    #[test]
    fn a_group_keeps_its_best_and_makes_room_for_others() {
        let groups = [0, 0, 1, 0, 2].map(GroupId::from);
        let mut top = GroupedTop::new(2, 1, &groups);
        for (row, score) in [(0, 0.1), (1, 0.9), (2, 0.5), (3, 0.8), (4, 0.4)] {
            top.offer(Entry::new(score, row));
        }
        assert_eq!(top.entries().map(|e| e.row()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn many_offers_at_once_keep_what_single_ones_keep() {
        let all = |from: u32| -> Vec<Entry> {
            let score = |i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as f32;
            (from..from + 200)
                .map(|i| Entry::new(score(i), i))
                .collect()
        };
        for capacity in [1, 7, 24, 25, 199, 200, 201] {
            let (mut at_once, mut single) =
                (Top::with_capacity(capacity), Top::with_capacity(capacity));
            for from in [0, 200] {
                at_once.offer_all(&mut all(from));
                all(from).into_iter().for_each(|entry| single.offer(entry));
                assert_eq!(at_once.entries(), single.entries(), "capacity {capacity}");
            }
        }
    }

    #[test]
    fn trees_keep_what_a_list_keeps() {
        let mut seed = 7_u64;
        let mut next = |below: u64| {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1);
            (seed >> 33) % below
        };
        for (capacity, size, how_many) in [(1, 1, 3), (40, 1, 60), (40, 3, 20), (40, 7, 4)] {
            let groups: Vec<GroupId> = (0..900).map(|_| next(how_many) as GroupId - 1).collect();
            let mut list = GroupedTop::new(capacity, size, &groups);
            let mut trees = GroupedTop::new(capacity, size, &groups);
            trees.kept = Kept::Trees(BTreeSet::new(), BTreeMap::new());
            for row in 0..900 {
                let entry = Entry::new(next(50) as f32, row);
                list.offer(entry);
                trees.offer(entry);
                assert_eq!(list.floor(), trees.floor());
            }
            assert!(list.entries().eq(trees.entries()));
        }
    }

    #[test]
    fn many_entries_are_the_best_ones_in_order() {
        let score = |row: u32| ((row * 7919) % 1000) as f32;
        let (mut many, mut top) = (Many::new(40), Top::with_capacity(40));
        for row in 0..1000 {
            let entry = Entry::new(score(row), row);
            many.offer(entry);
            top.offer(entry);
        }
        assert_eq!(many.into_entries(), top.entries());
    }

    #[test]
    fn a_frontier_gives_the_best_first_up_to_the_width_of_a_bucket() {
        let mut frontier = Frontier::default();
        assert_eq!(frontier.pop(), None);
        for rows in [1u32, 40, 400] {
            frontier.clear();
            for row in 0..rows {
                let distance = 0.001 * 1.02f32.powi((row * 7 % rows).cast_signed());
                frontier.push(Entry::new(-distance, row));
            }
            let best = frontier.pop().unwrap();
            assert_eq!(best, Entry::new(-0.001, 0));
            frontier.push(best);
            frontier.push(Entry::new(1.0, 5));
            frontier.push(Entry::new(f32::MIN, 6));
            let scores: Vec<f32> =
                std::iter::from_fn(|| frontier.pop().map(Entry::score)).collect();
            assert_eq!(scores.len(), rows as usize + 2);
            assert!(scores.is_sorted_by(|a, b| a > b), "{scores:?}");
        }
    }
}
