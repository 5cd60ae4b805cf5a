//! All pairs of rows whose score reaches a threshold, exactly: of one set of rows, or of new rows with each other and with
//! old ones.
//!
//! Reads rows, allocates images and cells, and hands out pairs in batches of bounded size. A pair is passed over only where
//! a bound, rounding included, says that exact search would not report it ([`bound`], [`cells`]); every other one is scored
//! as exact search does.

mod bound;
mod cells;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;

use osler_kernels::SLIVER;
use rayon::prelude::*;

use self::bound::Image;
use self::cells::{Cells, Slivers};
use crate::error::{Error, Result};
use crate::metric::Metric;
use crate::pool::{Control, Pool};

/// A pair of rows, the lower first, and its score.
pub type Pair = (u32, u32, f32);

/// Rows that are compared with others together.
const BLOCK: usize = 64;

/// Slivers between two looks at how many pairs were found.
const SLIVERS: usize = 32;

/// A block that has found so many pairs waits for its next turn, so that what is held stays bounded.
const PAUSE: usize = 1 << 16;

/// Blocks that work at once, and the most batches that are held.
const TOGETHER: usize = 128;

/// Below this many rows, or new rows, images cost more than they save.
const PRUNE_FROM: [usize; 2] = [2048, 128];

/// Where this share of random pairs would have to be scored, all are.
const PRUNE_BELOW: f64 = 0.2;

/// Pairs of a group of rows and a sliver are scored as a tile where at least one in so many has to be.
const TILE_FROM: usize = 2;

/// Rows to be joined: new ones, numbered from 0, then old ones.
struct Sides {
    fresh: Vec<f32>,
    old: Vec<f32>,
    dim: usize,
}

impl Sides {
    fn count(&self) -> usize {
        (self.fresh.len() + self.old.len()) / self.dim
    }

    fn parts(&self) -> [&[f32]; 2] {
        [&self.fresh, &self.old]
    }

    fn row(&self, row: u32) -> &[f32] {
        let at = row as usize * self.dim;
        match at.checked_sub(self.fresh.len()) {
            None => &self.fresh[at..at + self.dim],
            Some(at) => &self.old[at..at + self.dim],
        }
    }
}

/// What is joined.
pub struct Rows {
    /// Row-major vectors.
    pub vectors: Vec<f32>,
    /// Row-major vectors whose pairs with each other are known already; may be empty.
    pub against: Vec<f32>,
    /// Columns of both.
    pub dim: usize,
    /// Rows are brought to unit length under cosine.
    pub metric: Metric,
    /// Lowest score that is reported.
    pub threshold: f32,
}

/// A join in progress.
///
/// ```
/// use osler_core::{join::{Join, Rows}, metric::Metric, pool::{Control, Pool}};
///
/// # fn main() -> osler_core::error::Result<()> {
/// let rows = Rows {
///     vectors: vec![1.0, 0.0, 0.0, 1.0],
///     against: vec![2.0, 0.0],
///     dim: 2,
///     metric: Metric::Cosine,
///     threshold: 0.9,
/// };
/// let (pool, control) = (Pool::default(), Control::default());
/// let mut join = Join::new(rows, 1, &pool, &control)?;
/// assert_eq!(join.next(&pool, &control)?, Some(vec![(0, 2, 1.0)]));
/// assert_eq!(join.next(&pool, &control)?, None);
/// # Ok(())
/// # }
/// ```
pub struct Join {
    sides: Sides,
    metric: Metric,
    threshold: f32,
    threads: usize,
    image: Option<Image>,
    cells: Cells,
    waiting: VecDeque<Block>,
    next: Block,
}

/// Places of one cell's new rows, and where in the list of its partners their turn begins.
#[derive(Clone, Copy, Default)]
struct Block {
    cell: usize,
    place: usize,
    partner: usize,
    sliver: usize,
}

impl Join {
    /// Prepares a join.
    ///
    /// # Errors
    /// [`Error::Input`] for a row that the metric cannot score or a threshold that is no number, [`Error::Cancelled`].
    pub fn new(rows: Rows, threads: usize, pool: &Pool, control: &Control) -> Result<Self> {
        let Rows {
            vectors,
            against,
            dim,
            metric,
            threshold,
        } = rows;
        if !threshold.is_finite() {
            return Err(Error::input(
                "threshold is not a finite number; give the lowest score to report",
            ));
        }
        let mut sides = Sides {
            fresh: vectors,
            old: against,
            dim: dim.max(1),
        };
        let fresh = sides.fresh.len() / sides.dim;
        let (image, cells) = pool.run(threads, || {
            for (what, side) in [("vectors", &mut sides.fresh), ("against", &mut sides.old)] {
                side.par_chunks_exact_mut(dim.max(1))
                    .enumerate()
                    .try_for_each(|(at, row)| metric.prepare(row, what, at))?;
            }
            let count = sides.count();
            let prunes = count >= PRUNE_FROM[0]
                && fresh >= PRUNE_FROM[1]
                && (metric != Metric::Cosine || threshold > -1.0);
            if prunes {
                let mut image = Image::new(&sides, metric, threshold, control)?;
                if image.share() < PRUNE_BELOW {
                    let cells = Cells::new(&mut image, fresh, control)?;
                    return Ok((Some(image), cells));
                }
            }
            Ok((None, Cells::one(count, fresh)))
        })?;
        control.expect(fresh);
        Ok(Join {
            sides,
            metric,
            threshold,
            threads,
            image,
            cells,
            waiting: VecDeque::new(),
            next: Block::default(),
        })
    }

    /// The next pairs, in an order that depends on the rows alone; None after the last. A batch is never empty and never
    /// holds more than some millions.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn next(&mut self, pool: &Pool, control: &Control) -> Result<Option<Vec<Pair>>> {
        loop {
            let mut blocks: Vec<Block> = self.waiting.drain(..).collect();
            while blocks.len() < TOGETHER
                && let Some(block) = self.draw()
            {
                blocks.push(block);
            }
            if blocks.is_empty() {
                return Ok(None);
            }
            let this = &*self;
            let turns: Result<Vec<_>> = pool.run(self.threads, || {
                blocks
                    .par_iter()
                    .with_max_len(1)
                    .map_init(Buffers::default, |buffers, &block| {
                        control.check()?;
                        this.turn(block, buffers, control)
                    })
                    .collect()
            });
            let turns: Vec<(Vec<Pair>, Option<Block>)> = match turns {
                Ok(turns) => turns,
                Err(error) => {
                    // Whoever stops a batch may ask for it again.
                    self.waiting.extend(blocks);
                    return Err(error);
                }
            };
            let mut batch = Vec::with_capacity(turns.iter().map(|turn| turn.0.len()).sum());
            for (pairs, rest) in turns {
                batch.extend(pairs);
                self.waiting.extend(rest);
            }
            if !batch.is_empty() {
                return Ok(Some(batch));
            }
        }
    }

    fn draw(&mut self) -> Option<Block> {
        while self.next.cell < self.cells.count() {
            let Block { cell, place, .. } = self.next;
            let place = place.max(self.cells.starts[cell]);
            if place < self.cells.fresh[cell] {
                let block = Block { place, ..self.next };
                self.next.place = place + BLOCK;
                return Some(block);
            }
            self.next = Block {
                cell: cell + 1,
                ..Block::default()
            };
        }
        None
    }

    /// Joins a block of rows with its partners, until there are enough pairs to pause.
    fn turn(
        &self,
        block: Block,
        buffers: &mut Buffers,
        control: &Control,
    ) -> Result<(Vec<Pair>, Option<Block>)> {
        let cells = &self.cells;
        let places = block.place..(block.place + BLOCK).min(cells.fresh[block.cell]);
        buffers.start(self, block.cell, &places);
        let mut pairs = Vec::new();
        for partner in block.partner..buffers.partners.len() {
            control.check()?;
            let (other, _) = buffers.partners[partner];
            let other = other as usize;
            buffers.choose(self, partner, block.cell, &places);
            if buffers.chosen.is_empty() {
                continue;
            }
            // Before its own cell a block meets old rows only, in its own cell those after it.
            let from = match other.cmp(&block.cell) {
                std::cmp::Ordering::Less => cells.fresh[other],
                std::cmp::Ordering::Equal => places.start,
                std::cmp::Ordering::Greater => cells.starts[other],
            };
            let first = cells.first_sliver[other] + (from - cells.starts[other]) / SLIVER;
            let mut sliver = if partner == block.partner {
                first.max(block.sliver)
            } else {
                first
            };
            while sliver < cells.first_sliver[other + 1] {
                let slivers = sliver..(sliver + SLIVERS).min(cells.first_sliver[other + 1]);
                sliver = slivers.end;
                self.compare(other, slivers, buffers, &mut pairs);
                if pairs.len() >= PAUSE {
                    let rest = Block {
                        partner,
                        sliver,
                        ..block
                    };
                    return Ok((pairs, Some(rest)));
                }
            }
        }
        control.advance(places.len());
        Ok((pairs, None))
    }

    /// Reports pairs of the chosen rows with rows of some slivers of a cell.
    fn compare(
        &self,
        other: usize,
        slivers: std::ops::Range<usize>,
        buffers: &mut Buffers,
        pairs: &mut Vec<Pair>,
    ) {
        let cells = &self.cells;
        let chosen = buffers.chosen.len();
        buffers.masks.clear();
        buffers.masks.resize(chosen * slivers.len(), u32::MAX);
        if let Some(image) = &self.image {
            let values = slivers.start * SLIVER * image.width..slivers.end * SLIVER * image.width;
            let terms = slivers.start * SLIVER..slivers.end * SLIVER;
            osler_kernels::sliver_reach(
                [&buffers.values, &buffers.terms],
                [&cells.slivers.values[values], &cells.slivers.terms[terms]],
                image.floor,
                image.width,
                &mut buffers.masks,
            );
        }
        let fresh = cells.fresh[other];
        buffers.rows.clear();
        let start =
            |sliver: usize| cells.starts[other] + (sliver - cells.first_sliver[other]) * SLIVER;
        let mut some = false;
        for (number, sliver) in slivers.clone().enumerate() {
            let start = start(sliver);
            let lanes = (cells.starts[other + 1] - start).min(SLIVER);
            let mut reached = 0;
            for (i, &place) in buffers.chosen.iter().enumerate() {
                let mask = &mut buffers.masks[i * slivers.len() + number];
                // New rows that come before this one met it in their own turn.
                let met = (place + 1).min(fresh).saturating_sub(start);
                *mask &= bits(lanes) & !bits(met.min(SLIVER));
                reached += mask.count_ones() as usize;
            }
            if reached > 0 && reached * TILE_FROM >= chosen * lanes {
                self.score_tile(start, lanes, number, slivers.len(), buffers, pairs);
                for i in 0..chosen {
                    buffers.masks[i * slivers.len() + number] = 0;
                }
            } else {
                some |= reached > 0;
            }
        }
        if !some {
            return;
        }
        for i in 0..chosen {
            let place = buffers.chosen[i];
            buffers.reached.clear();
            let masks = &buffers.masks[i * slivers.len()..][..slivers.len()];
            for (&mask, sliver) in masks.iter().zip(slivers.clone()) {
                let mut mask = mask;
                while mask != 0 {
                    buffers
                        .reached
                        .push(start(sliver) + mask.trailing_zeros() as usize);
                    mask &= mask - 1;
                }
            }
            self.score_some(place, &mut buffers.reached, pairs);
        }
    }

    /// Scores all pairs of the chosen rows with `lanes` places from `start`, and reports those in the masks.
    fn score_tile(
        &self,
        start: usize,
        lanes: usize,
        number: usize,
        slivers: usize,
        buffers: &mut Buffers,
        pairs: &mut Vec<Pair>,
    ) {
        let dim = self.sides.dim;
        if buffers.rows.is_empty() {
            for &place in &buffers.chosen {
                let row = self.sides.row(self.cells.order[place]);
                buffers.rows.extend_from_slice(row);
            }
        }
        buffers.others.clear();
        for place in start..start + lanes {
            let row = self.sides.row(self.cells.order[place]);
            buffers.others.extend_from_slice(row);
        }
        buffers.scores.clear();
        buffers.scores.resize(buffers.chosen.len() * lanes, 0.0);
        let tile = match self.metric {
            Metric::L2 => osler_kernels::l2_tile,
            _ => osler_kernels::dot_tile,
        };
        tile(&buffers.rows, &buffers.others, dim, &mut buffers.scores);
        for (i, &place) in buffers.chosen.iter().enumerate() {
            let mut mask = buffers.masks[i * slivers + number];
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                self.report(place, start + lane, buffers.scores[i * lanes + lane], pairs);
            }
        }
    }

    /// Reports pairs of one place with some others, of which those whose long images say no are not scored.
    fn score_some(&self, place: usize, others: &mut Vec<usize>, pairs: &mut Vec<Pair>) {
        if let Some(image) = self
            .image
            .as_ref()
            .filter(|image| image.long_width > image.width)
        {
            let long =
                |place: usize| &self.cells.long[place * image.long_width..][..image.long_width];
            let mut kept = 0;
            let mut keep = |others: &mut [usize], other: usize, sum: f32| {
                let sum = sum + (self.cells.terms[place] + self.cells.terms[other]);
                others[kept] = other;
                kept += usize::from(sum >= image.floor);
            };
            by_fours(others, |others, few| match few {
                Few::Four(four) => {
                    let sums = osler_kernels::dot4(long(place), four.map(long));
                    four.into_iter()
                        .zip(sums)
                        .for_each(|(other, sum)| keep(others, other, sum));
                }
                Few::One(one) => keep(others, one, osler_kernels::dot(long(place), long(one))),
            });
            others.truncate(kept);
        }
        let row = |place: usize| self.sides.row(self.cells.order[place]);
        by_fours(others, |_, few| match few {
            Few::Four(four) => {
                let scores = match self.metric {
                    Metric::L2 => osler_kernels::l2_4(row(place), four.map(row)),
                    _ => osler_kernels::dot4(row(place), four.map(row)),
                };
                for (other, score) in four.into_iter().zip(scores) {
                    self.report(place, other, score, pairs);
                }
            }
            Few::One(other) => {
                let score = match self.metric {
                    Metric::L2 => osler_kernels::l2(row(place), row(other)),
                    _ => osler_kernels::dot(row(place), row(other)),
                };
                self.report(place, other, score, pairs);
            }
        });
    }

    fn report(&self, place: usize, other: usize, score: f32, pairs: &mut Vec<Pair>) {
        // Adding 0 gives equal rows a score of 0.0 rather than -0.0, as a search does.
        let score = self.metric.presented(match self.metric {
            Metric::L2 => 0.0 - score,
            _ => score + 0.0,
        });
        if score >= self.threshold {
            let [a, b] = [place, other].map(|place| self.cells.order[place]);
            pairs.push((a.min(b), a.max(b), score));
        }
    }
}

/// What the kernels of one row take at a time.
enum Few {
    Four([usize; 4]),
    One(usize),
}

/// Calls `take` with all `places`, which it may overwrite up to what it was given.
fn by_fours(places: &mut [usize], mut take: impl FnMut(&mut [usize], Few)) {
    let whole = places.len() / 4 * 4;
    for at in (0..whole).step_by(4) {
        let four = [places[at], places[at + 1], places[at + 2], places[at + 3]];
        take(places, Few::Four(four));
    }
    for at in whole..places.len() {
        let one = places[at];
        take(places, Few::One(one));
    }
}

/// The lowest `count` bits, at most 32.
fn bits(count: usize) -> u32 {
    ((1_u64 << count) - 1) as u32
}

/// What a thread needs besides the join.
#[derive(Default)]
struct Buffers {
    partners: Vec<(u32, f32)>,
    centres: Slivers,
    /// Sums of the block's rows with the partners' centres.
    sums: Vec<f32>,
    /// Position of the block's own cell among the partners.
    own: usize,
    /// Places of the block's rows that may have pairs in the partner's cell, their images and terms.
    chosen: Vec<usize>,
    values: Vec<f32>,
    terms: Vec<f32>,
    masks: Vec<u32>,
    /// Places whose pairs with one row have to be scored.
    reached: Vec<usize>,
    rows: Vec<f32>,
    others: Vec<f32>,
    scores: Vec<f32>,
}

impl Buffers {
    fn start(&mut self, join: &Join, cell: usize, places: &std::ops::Range<usize>) {
        let Some(image) = &join.image else {
            self.partners = vec![(0, f32::INFINITY)];
            return;
        };
        join.cells.partners(image, cell, &mut self.partners);
        join.cells.centres_of(&self.partners, &mut self.centres);
        self.own = self
            .partners
            .iter()
            .position(|&(other, _)| other as usize == cell)
            .unwrap_or(0);
        self.sums.clear();
        self.sums
            .resize(places.len() * self.centres.terms.len(), 0.0);
        osler_kernels::sliver_sums(
            &join.cells.values[places.start * image.width..places.end * image.width],
            &self.centres.values,
            &self.centres.terms,
            image.width,
            &mut self.sums,
        );
    }

    /// Chooses the rows that may have pairs in a partner's cell.
    fn choose(
        &mut self,
        join: &Join,
        partner: usize,
        cell: usize,
        places: &std::ops::Range<usize>,
    ) {
        self.chosen.clear();
        self.values.clear();
        self.terms.clear();
        let Some(image) = &join.image else {
            self.chosen.extend(places.clone());
            return;
        };
        let (other, most) = self.partners[partner];
        let stride = self.centres.terms.len();
        for (i, place) in places.clone().enumerate() {
            let sums = &self.sums[i * stride..][..stride];
            if other as usize == cell || sums[self.own] - sums[partner] <= most {
                let values = &join.cells.values[place * image.width..][..image.width];
                self.chosen.push(place);
                self.values.extend_from_slice(values);
                self.terms.push(join.cells.terms[place]);
            }
        }
    }
}

/// Every pair of a join, sorted by rows.
///
/// # Errors
/// [`Error::Input`] for a row that the metric cannot score or a threshold that is no number, [`Error::Cancelled`].
pub fn join(rows: Rows, threads: usize, pool: &Pool, control: &Control) -> Result<Vec<Pair>> {
    let mut join = Join::new(rows, threads, pool, control)?;
    let mut pairs = Vec::new();
    while let Some(batch) = join.next(pool, control)? {
        pairs.extend(batch);
    }
    pool.run(threads, || {
        pairs.par_sort_unstable_by_key(|&(a, b, _)| (a, b));
        Ok(pairs)
    })
}
