//! Which neighbours to keep: near ones, but none that is clearly nearer to a kept one than to its owner.
//!
//! RobustPrune (Subramanya et al., DiskANN, NeurIPS 2019, Algorithm 2), which is HNSW's heuristic (Algorithm 4) with slack.
//! The slack is the sharp knob: a little too large, and rows of a cluster keep only each other, which costs 20 points of
//! recall where rows lie in clusters and nothing where they do not. So neighbours are chosen with little slack first, and
//! with more only for the places that are then left. Touches nothing but its arguments.

use super::assemble::DEGREE;
use super::node::{SIZES, slots};
use crate::error::Read;

/// Reads squared distances between rows or nodes.
pub trait Distances {
    /// Squared distances of one to four others.
    ///
    /// # Errors
    /// The damage, where one of them lies in a damaged block of a file.
    fn to_four(&self, from: u32, to: [u32; 4]) -> Read<[f32; 4]>;

    /// Asks for one that will be read soon.
    fn prefetch(&self, at: u32);
}

/// How many neighbours are kept, and how strictly.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// How much nearer to a kept neighbour than to its owner a candidate must be to be left out, as a factor of squared
    /// distances: first, and for the places that are left then.
    pub alpha: [f32; 2],
    /// Places that a list has: the first of these that its first neighbours fit, and never more than the last.
    pub sizes: [usize; SIZES],
}

impl Default for Rule {
    fn default() -> Self {
        Rule {
            alpha: [1.05, 1.2],
            sizes: [slots(0), DEGREE],
        }
    }
}

impl Rule {
    /// The rule for a list that has at most `most` places.
    pub fn within(most: usize) -> Self {
        let rule = Rule::default();
        Rule {
            sizes: rule.sizes.map(|size| size.min(most)),
            ..rule
        }
    }

    /// Most neighbours of a list.
    pub fn most(&self) -> usize {
        self.sizes[SIZES - 1]
    }

    /// Places of a list with `count` neighbours.
    pub fn places(&self, count: usize) -> usize {
        let size = self.sizes.iter().copied().find(|&size| count <= size);
        size.unwrap_or(self.most())
    }
}

/// How many candidates before its turn one is fetched from memory.
const AHEAD: usize = 8;

/// A candidate as a number that orders by distance, then by row.
#[inline]
pub(super) fn entry(distance: f32, row: u32) -> u64 {
    u64::from(distance.to_bits()) << 32 | u64::from(row)
}

/// The row of a candidate.
#[inline]
pub(super) fn row_of(entry: u64) -> u32 {
    entry as u32
}

fn distance_of(entry: u64) -> f32 {
    f32::from_bits((entry >> 32) as u32)
}

/// Buffers of pruning, and its result.
#[derive(Debug, Default)]
pub struct Pruner {
    sorted: Vec<u64>,
    kept: Vec<u64>,
    spare: Vec<u64>,
}

impl Pruner {
    /// The neighbours that `owner` gets of `candidates`, nearest first.
    ///
    /// # Errors
    /// What `space` reports.
    pub fn of<S: Distances>(
        &mut self,
        space: &S,
        owner: u32,
        candidates: &[u32],
        rule: &Rule,
    ) -> Read<impl Iterator<Item = u32> + '_> {
        self.sorted.clear();
        for (i, four) in candidates.chunks(4).enumerate() {
            for &soon in candidates.iter().skip(4 * i + AHEAD).take(4) {
                space.prefetch(soon);
            }
            let distances = space.to_four(owner, padded(four))?;
            let four = four.iter().zip(distances);
            self.sorted
                .extend(four.map(|(&row, distance)| entry(distance, row)));
        }
        self.keep(space, rule)
    }

    /// The same where the distances from the owner are known, as (squared distance, row).
    ///
    /// # Errors
    /// What `space` reports.
    pub fn of_measured<S: Distances>(
        &mut self,
        space: &S,
        candidates: impl Iterator<Item = (f32, u32)>,
        rule: &Rule,
    ) -> Read<impl Iterator<Item = u32> + '_> {
        self.sorted.clear();
        self.sorted
            .extend(candidates.map(|(distance, row)| entry(distance.max(0.0), row)));
        self.keep(space, rule)
    }

    fn keep<S: Distances>(
        &mut self,
        space: &S,
        rule: &Rule,
    ) -> Read<impl Iterator<Item = u32> + '_> {
        let Pruner {
            sorted,
            kept,
            spare,
        } = self;
        sorted.sort_unstable();
        sorted.dedup();
        kept.clear();
        spare.clear();
        let [strict, loose] = rule.alpha;
        let mut rows = [0; DEGREE];
        for &candidate in sorted.iter() {
            if kept.len() == rule.most() {
                break;
            }
            match judge(space, &rows[..kept.len()], candidate, strict, loose)? {
                Verdict::Now => {
                    rows[kept.len()] = row_of(candidate);
                    kept.push(candidate);
                }
                Verdict::Later => spare.push(candidate),
                Verdict::Never => {}
            }
        }
        let places = rule.places(kept.len());
        for &candidate in spare.iter() {
            if kept.len() >= places {
                break;
            }
            let verdict = judge(space, &rows[..kept.len()], candidate, loose, loose)?;
            if let Verdict::Now = verdict {
                rows[kept.len()] = row_of(candidate);
                kept.push(candidate);
            }
        }
        kept.sort_unstable();
        Ok(kept.iter().map(|&candidate| row_of(candidate)))
    }
}

/// What the neighbours kept so far say about a candidate: a neighbour, one if more slack leaves a place, or none.
enum Verdict {
    Now,
    Later,
    Never,
}

fn judge<S: Distances>(
    space: &S,
    kept: &[u32],
    candidate: u64,
    alpha: f32,
    loose: f32,
) -> Read<Verdict> {
    let (row, distance) = (row_of(candidate), distance_of(candidate));
    for four in kept.chunks(4) {
        let between = space.to_four(row, padded(four))?;
        if between.iter().any(|between| alpha * between <= distance) {
            let never = between.iter().any(|between| loose * between <= distance);
            return Ok(if never {
                Verdict::Never
            } else {
                Verdict::Later
            });
        }
    }
    Ok(Verdict::Now)
}

/// Four rows, of which the last may be the same.
fn padded(four: &[u32]) -> [u32; 4] {
    std::array::from_fn(|i| four[i.min(four.len() - 1)])
}
