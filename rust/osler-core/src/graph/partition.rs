//! The near rows of every row, found by cutting all rows into overlapping leaves instead of by searching a graph.
//!
//! Reads rows as bytes; writes only the bounded lists of candidates. PiPNN (arXiv 2602.21247): each row goes to its
//! few nearest of some random leaders, each group is cut again, and in a leaf every pair is computed. A row keeps the
//! nearest of all that its leaves found, which does not depend on the order of leaves, so neither do results on threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use osler_kernels::{MAX_PANEL_ROWS, Panels, nearest_among, nearest_of, nearest_within};
use rayon::prelude::*;

use super::bytes::ByteRows;
use super::prune::{Rule, entry};
use crate::error::{Error, Result};
use crate::pool::Control;
use crate::random::Stream;

/// How rows are cut and how many edges they get.
#[derive(Clone, Copy, Debug)]
pub struct Params {
    /// Most edges of a row.
    pub degree: usize,
    /// Leaders that a row follows in the first cut and in the second, at most 16; further cuts do not overlap.
    pub fan_out: [usize; 2],
    /// Most rows of a leaf, at most 1,024.
    pub cap: usize,
    /// Nearest rows that a leaf finds for each of its rows, at most 8.
    pub leaf_k: usize,
    /// Candidates kept for a row.
    pub reservoir: usize,
    /// Which candidates become edges.
    pub rule: Rule,
    /// Of leaders and of random edges.
    pub seed: u64,
}

impl Default for Params {
    fn default() -> Self {
        Params {
            degree: 32,
            fan_out: [10, 2],
            cap: 512,
            leaf_k: 8,
            reservoir: 64,
            rule: Rule::default(),
            seed: 0,
        }
    }
}

const LEADERS: u64 = 0x6c65_6164;
const CHOP: u64 = 0x6368_6f70;

/// Rows compared with leaders at once: their panels fit the second cache beside some of the leaders'.
const BLOCK: usize = 256;

/// How many rows before its turn a row is fetched from memory.
const AHEAD: usize = 8;

/// Rows whose candidates share a lock.
pub(super) const STRIPE: usize = 64;

/// No candidate: above all others.
const EMPTY: u64 = u64::MAX;

/// The nearest rows that were found for each row: `reservoir` times 8 bytes each.
///
/// A stripe's lock guards its rows' entries. They are atomic only so that the next row's can be fetched from memory
/// before its lock is taken.
pub(super) struct Candidates {
    width: usize,
    stripes: Vec<Mutex<()>>,
    entries: Vec<AtomicU64>,
}

impl Candidates {
    fn new(rows: usize, width: usize) -> Self {
        let empty = (0..rows * width).into_par_iter();
        Candidates {
            width,
            stripes: (0..rows.div_ceil(STRIPE)).map(|_| Mutex::new(())).collect(),
            entries: empty.map(|_| AtomicU64::new(EMPTY)).collect(),
        }
    }

    #[inline]
    fn entries(&self, row: u32) -> &[AtomicU64] {
        &self.entries[row as usize * self.width..][..self.width]
    }

    fn prefetch(&self, row: u32) {
        osler_kernels::prefetch(self.entries(row));
    }

    /// Adds what a leaf found for a row, ascending. Any order of calls leaves the same candidates.
    fn offer(&self, row: u32, found: &[u64]) {
        let stripe = &self.stripes[row as usize / STRIPE];
        let _guard = stripe.lock().unwrap_or_else(PoisonError::into_inner);
        merge(self.entries(row), found);
    }

    /// The candidates of a row, ascending, when nothing is offered any more.
    pub(super) fn of(&self, row: u32) -> impl Iterator<Item = u64> {
        let entries = self.entries(row).iter();
        entries
            .map(|entry| entry.load(Ordering::Relaxed))
            .take_while(|&entry| entry != EMPTY)
    }
}

/// Leaves in `kept` the smallest of both, each once; both ascend.
fn merge(kept: &[AtomicU64], found: &[u64]) {
    let at = |place: usize| kept[place].load(Ordering::Relaxed);
    let last = kept.len() - 1;
    let mut place = 0;
    for &entry in found {
        if entry >= at(last) {
            break;
        }
        while at(place) < entry {
            place += 1;
        }
        let mut moved = at(place);
        if moved != entry {
            kept[place].store(entry, Ordering::Relaxed);
            for later in &kept[place + 1..] {
                if moved == EMPTY {
                    break;
                }
                let next = later.load(Ordering::Relaxed);
                later.store(moved, Ordering::Relaxed);
                moved = next;
            }
        }
    }
}

/// Tells a share of the progress in parts that add up to it.
pub(super) struct Share<'a> {
    control: &'a Control,
    share: usize,
    total: usize,
    done: AtomicUsize,
}

impl<'a> Share<'a> {
    pub(super) fn new(control: &'a Control, share: usize, total: usize) -> Self {
        Share {
            control,
            share,
            total: total.max(1),
            done: AtomicUsize::new(0),
        }
    }

    /// # Errors
    /// [`Error::Cancelled`](crate::error::Error::Cancelled) if the work was asked to stop.
    pub(super) fn advance(&self, count: usize) -> Result<()> {
        let before = self.done.fetch_add(count, Ordering::Relaxed);
        let told = |done: usize| (done as u128 * self.share as u128 / self.total as u128) as usize;
        self.control.advance(told(before + count) - told(before));
        self.control.check()
    }

    /// Tells what is left of the share.
    pub(super) fn finish(&self) {
        let done = self.done.swap(self.total, Ordering::Relaxed);
        let told = (done as u128 * self.share as u128 / self.total as u128) as usize;
        self.control.advance(self.share.saturating_sub(told));
    }
}

/// Cut pieces of a group, one behind the other.
struct Groups {
    ends: Vec<usize>,
    members: Vec<u32>,
}

impl Groups {
    fn get(&self, group: usize) -> &[u32] {
        let start = if group == 0 { 0 } else { self.ends[group - 1] };
        &self.members[start..self.ends[group]]
    }
}

#[derive(Default)]
struct Scratch {
    panels: Panels,
    keys: Vec<u32>,
}

/// Buffers that threads borrow and give back.
#[derive(Default)]
struct Spare(Mutex<Vec<Scratch>>);

impl Spare {
    fn with<R>(&self, work: impl FnOnce(&mut Scratch) -> R) -> R {
        let free = || self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scratch = free().pop().unwrap_or_default();
        let result = work(&mut scratch);
        free().push(scratch);
        result
    }
}

struct Carving<'a> {
    rows: &'a ByteRows<'a>,
    params: Params,
    candidates: Candidates,
    spare: Spare,
    share: Share<'a>,
}

/// The nearest rows that leaves found for each of `members`.
///
/// Advances `control` by `share` in all. Memory beside the result: 6 bytes for each member and leader that it follows
/// in the first cut, and for each thread as much for one group of the second.
///
/// # Errors
/// [`Error::Cancelled`](crate::error::Error::Cancelled) if the work was asked to stop.
pub(super) fn candidates(
    rows: &ByteRows<'_>,
    members: &[u32],
    params: Params,
    share: usize,
    control: &Control,
) -> Result<Candidates> {
    let cap = params.cap.clamp(2, MAX_PANEL_ROWS);
    let params = Params { cap, ..params };
    let total = if members.len() <= cap {
        members.len()
    } else {
        members.len() * params.fan_out[0]
    };
    let carving = Carving {
        rows,
        params,
        candidates: Candidates::new(rows.len(), params.reservoir.max(1)),
        spare: Spare::default(),
        share: Share::new(control, share, total),
    };
    carving.carve(members, 0, params.seed)?;
    carving.share.finish();
    Ok(carving.candidates)
}

impl Carving<'_> {
    /// Cuts a group until its pieces are leaves. `path` names the group, and so its leaders.
    fn carve(&self, members: &[u32], depth: usize, path: u64) -> Result<()> {
        self.share.control.check()?;
        if members.len() <= self.params.cap {
            self.leaf(members);
        } else {
            let fan_out = self.params.fan_out.get(depth).copied().unwrap_or(1);
            let leaders = self.leaders(members, depth, path);
            let groups = self.cut(members, &leaders, fan_out.clamp(1, leaders.len().min(16)));
            let largest = (0..leaders.len())
                .map(|i| groups.get(i).len())
                .max()
                .unwrap_or(0);
            // Leaders do not tell these rows apart: chance does, at a bounded cost.
            let stuck = depth >= self.params.fan_out.len() && largest > members.len() / 2;
            if stuck {
                drop(groups);
                self.chop(members, path);
            } else {
                (0..leaders.len()).into_par_iter().try_for_each(|i| {
                    let below = Stream::new(path, LEADERS, i as u64 + 1).next_u64();
                    self.carve(groups.get(i), depth + 1, below)?;
                    if depth == 0 {
                        self.share.advance(groups.get(i).len())?;
                    }
                    Ok::<_, Error>(())
                })?;
            }
        }
        if depth == 0 && members.len() <= self.params.cap {
            self.share.advance(members.len())?;
        }
        Ok(())
    }

    /// A random sample of a group, as many as make the work of this cut and the next about equal.
    fn leaders(&self, members: &[u32], depth: usize, path: u64) -> Vec<u32> {
        let [first, second] = self.params.fan_out.map(|f| f.clamp(1, 16) as f64);
        let leaf = self.params.cap as f64 / 2.0;
        let count = members.len() as f64;
        let wanted = match depth {
            0 => (first * first * second * count / leaf).sqrt(),
            1 => second * count / leaf,
            _ => count / leaf,
        };
        let most = members.len().min(MAX_PANEL_ROWS);
        let count = (wanted.ceil() as usize).clamp(2.max(first as usize).min(most), most);
        let mut stream = Stream::new(path, LEADERS, 0);
        let mut sample = members.to_vec();
        for i in 0..count {
            let other = i + stream.below((sample.len() - i) as u64) as usize;
            sample.swap(i, other);
        }
        sample.truncate(count);
        sample
    }

    /// Gives each row of a group to its `fan_out` nearest leaders.
    fn cut(&self, members: &[u32], leaders: &[u32], fan_out: usize) -> Groups {
        const NOBODY: u16 = u16::MAX;
        let mut leader_panels = Panels::default();
        self.fill(&mut leader_panels, leaders);
        let mut follows = vec![NOBODY; members.len() * fan_out];
        follows
            .par_chunks_mut(BLOCK * fan_out)
            .zip(members.par_chunks(BLOCK))
            .for_each(|(follows, block)| {
                self.spare.with(|scratch| {
                    self.fill(&mut scratch.panels, block);
                    let (panels, keys) = (&scratch.panels, &mut scratch.keys);
                    let follows = follows.chunks_exact_mut(fan_out);
                    match fan_out {
                        1 => nearest::<1>(panels, &leader_panels, keys, follows),
                        2 => nearest::<2>(panels, &leader_panels, keys, follows),
                        3..=4 => nearest::<4>(panels, &leader_panels, keys, follows),
                        5..=8 => nearest::<8>(panels, &leader_panels, keys, follows),
                        _ => nearest::<16>(panels, &leader_panels, keys, follows),
                    }
                });
            });
        let mut places = vec![0; leaders.len()];
        for &leader in follows.iter().filter(|&&leader| leader != NOBODY) {
            places[usize::from(leader)] += 1;
        }
        let mut total = 0;
        for place in &mut places {
            total += std::mem::replace(place, total);
        }
        let mut grouped = vec![0; total];
        for (follows, &row) in follows.chunks_exact(fan_out).zip(members) {
            for &leader in follows.iter().filter(|&&leader| leader != NOBODY) {
                let place = &mut places[usize::from(leader)];
                grouped[*place] = row;
                *place += 1;
            }
        }
        Groups {
            ends: places,
            members: grouped,
        }
    }

    fn chop(&self, members: &[u32], path: u64) {
        let mut shuffled = members.to_vec();
        Stream::new(path, CHOP, 0).shuffle(&mut shuffled);
        let pieces = members.len().div_ceil(self.params.cap);
        shuffled
            .par_chunks(members.len().div_ceil(pieces))
            .for_each(|piece| self.leaf(piece));
    }

    /// All pairs of a leaf.
    fn leaf(&self, members: &[u32]) {
        self.spare.with(|scratch| {
            self.fill(&mut scratch.panels, members);
            nearest_within(&scratch.panels, &mut scratch.keys);
            let mut found = [0; 8];
            for (i, &row) in members.iter().enumerate() {
                if let Some(&soon) = members.get(i + AHEAD / 2) {
                    self.candidates.prefetch(soon);
                }
                let mut count = 0;
                for (distance, place) in nearest_of::<8>(&scratch.keys, i).take(self.params.leaf_k)
                {
                    found[count] = entry(distance, members[place]);
                    count += 1;
                }
                // Equal distances came by place.
                found[..count].sort_unstable();
                self.candidates.offer(row, &found[..count]);
            }
        });
    }

    fn fill(&self, panels: &mut Panels, members: &[u32]) {
        let rows = self.rows;
        panels.fill(
            rows.dim(),
            members.iter().enumerate().map(|(i, &row)| {
                if let Some(&soon) = members.get(i + AHEAD) {
                    osler_kernels::prefetch(rows.codes(soon));
                }
                (rows.codes(row), rows.scale(row))
            }),
        );
    }
}

/// Writes the leaders nearest to each row.
fn nearest<'a, const MOST: usize>(
    rows: &Panels,
    leaders: &Panels,
    keys: &mut Vec<u32>,
    follows: impl Iterator<Item = &'a mut [u16]>,
) {
    nearest_among::<MOST>(rows, leaders, keys);
    for (row, follows) in follows.enumerate() {
        for (follow, (_, leader)) in follows.iter_mut().zip(nearest_of::<MOST>(keys, row)) {
            *follow = leader as u16;
        }
    }
}
