//! Best-first walks over the graph: one that returns what it expanded, one that collects rows which are accepted.
//!
//! Reads blocks, allocates only in `Scratch`. A hop takes the distance of one node from its row of small numbers and
//! estimates all its neighbours from their 1-bit codes (SymphonyQG, arXiv 2411.12229, Algorithm 2). The walk ends when the best open
//! estimate is worse than the k-th distance by a margin, so that it goes on where estimates are close together.

use super::Graph;
use super::expand::{Coming, Due, expand, prefetch_fronts};
use super::lookup::Lookup;
use super::node::Blocks;
use super::query::Query;
use super::scratch::{Scratch, Visited};
use crate::error::Read;
use crate::queue::{Collect, Entry, MAX_ROWS, Top};

/// Finds that a walk returns beside the k wanted ones, to be ordered by full vectors: few where rows have 8 bits a number.
const SPARE: usize = 6;
const SPARE_OF_FIVE: usize = 30;

/// Open estimates that are looked at once more when the walk is over.
const SECOND_LOOK: usize = 16;

/// Rows of the sample that a walk starts from.
const STARTS: usize = 5;

/// Margin of a walk for each k-th of width beyond k, in standard errors of an estimate. Only sets the scale of `ef`: which
/// width a recall needs is measured.
const MARGIN: f32 = 0.2;

/// Squared distance from the centre up to which a query is inside; that of a row is 1 on average.
const INSIDE: f32 = 1.2;

/// Margin that is added for a query one unit farther out.
const OUTSIDE: f32 = 6.0;

/// Margin that is added where rows are chosen: a width is measured by walks that choose none, and nodes that are nearer than
/// any chosen row make a way longer.
const COLLECTING: f32 = 0.5;

/// How much farther than the margin an estimate may be and still be kept, in standard errors.
const WINDOW: f32 = 0.8;

/// Standard error of an estimate for one dimension: RaBitQ's bound (arXiv 2405.12497, theorem 3.2). It is a share of the k-th
/// distance's square for a neighbour that is as far from its node as the node is from the query; for codes that are relative
/// to the centre, of the product of the query's length with a row's, which is 1 on average.
const ERROR: f32 = 1.5;

/// How far and how widely a walk looks.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Finds that have to be right.
    pub k: usize,
    /// Width, at least k; the one number that is calibrated.
    pub ef: usize,
}

impl Effort {
    /// The margin for a query, in standard errors. One that lies far outside of what was indexed has few neighbours that
    /// know each other, so that a walk gets caught more easily.
    fn margin(self, query: &Query) -> f32 {
        let outside = (query.square - INSIDE).clamp(0.0, 1.0);
        MARGIN * (self.ef as f32 - self.k as f32) / (self.k.max(10) as f32) + OUTSIDE * outside
    }

    /// About how many nodes a walk without a filter expands.
    pub fn hops(self) -> f64 {
        (self.k + self.ef / 2) as f64
    }

    /// Nodes that may be expanded without any of them being among the k best; more than any walk needs that ends by its
    /// margin.
    fn patience(self) -> usize {
        self.ef + self.k + 8
    }
}

impl Graph {
    /// The score that is `errors` standard errors of an estimate below that of `kth`.
    #[inline(always)]
    fn slackened(&self, kth: Entry, errors: f32, query: &Query) -> f32 {
        let score = kth.score().min(0.0);
        let of = match &self.fronts {
            None => -score,
            Some(_) => query.square.sqrt(),
        };
        score - of * (errors * ERROR / (self.frame.padded() as f32).sqrt())
    }

    /// Finds that are kept beside the k wanted ones, of which full vectors order those that [`Graph::rounding`] leaves open.
    pub fn spare(&self) -> usize {
        match self.frame.blocks() {
            Blocks::Fused | Blocks::Single8 => SPARE,
            Blocks::Single5 => SPARE_OF_FIVE,
        }
    }

    /// How much the squared distances of two rows that are as long as the query differ by rounding alone, in all but few
    /// cases: four standard errors of a number that is rounded evenly, at the scale of a turned row, whose largest of D
    /// coordinates is about sqrt(2 ln D / D) of its length.
    pub fn rounding(&self, query: &Query) -> f32 {
        let padded = self.frame.padded() as f32;
        let step = (2.0 * padded.ln() / padded).sqrt() / self.frame.blocks().steps();
        4.0 * 2.0 * step / 12f32.sqrt() * query.square
    }

    fn begin(&self, absent: &[u32], visited: &mut Visited) {
        let most = self.nodes[0].len().max(self.nodes[1].len());
        visited.reset(2 * most);
        for &name in absent {
            visited.insert(name);
        }
    }

    /// The best of the sample, at most [`STARTS`], are in `best`.
    fn starts(&self, query: &Query, visited: &mut Visited, best: &mut Top) -> Read<()> {
        best.reset(STARTS);
        for index in 0..self.roots.len() {
            let root = self.root(index)?;
            let floor = best.floor();
            let limit = if floor > Entry::NONE {
                -floor.score()
            } else {
                f32::INFINITY
            };
            let mut estimates = [0.0; 32];
            let mut mask = root.estimates(query, query.square, limit, &mut estimates);
            while mask != 0 {
                let i = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let name = root.all()[i];
                if !self.exists(name) {
                    return Err(self.roots.damage(index, super::BROKEN_LINKS));
                }
                best.offer(Entry::new(-estimates[i], name));
            }
        }
        for start in best.entries() {
            visited.insert(start.row());
        }
        Ok(())
    }

    /// Walks towards `scratch.query`; the k best finds and some spare ones are in `scratch.top`, best first, with minus their
    /// squared distances as scores. `absent` nodes are walked around as if they had never been linked.
    ///
    /// # Errors
    /// The damage, where blocks lie in a damaged part of a file.
    pub fn walk(&self, effort: Effort, absent: &[u32], scratch: &mut Scratch) -> Read<()> {
        self.begin(absent, &mut scratch.visited);
        scratch.top.reset(effort.k + self.spare());
        scratch.early.reset(effort.k);
        self.starts(&scratch.query, &mut scratch.visited, &mut scratch.starts)?;
        scratch.frontier.clear();
        for &start in scratch.starts.entries() {
            scratch.frontier.push(start);
            scratch.early.offer(start);
        }
        loop {
            self.advance(effort, scratch)?;
            if !self.look_again(effort, scratch)? {
                return Ok(());
            }
        }
    }

    /// Expands the best open nodes until they are worse than the k-th find by the margin.
    #[inline(always)]
    fn advance(&self, effort: Effort, scratch: &mut Scratch) -> Read<()> {
        let Scratch {
            frontier,
            early,
            top,
            visited,
            query,
            ..
        } = scratch;
        let at = self.lookup();
        let margin = effort.margin(query);
        let mut patience = effort.patience();
        let mut coming = Coming::default();
        loop {
            let kth = top.entries().get(effort.k - 1).copied();
            let next = match (frontier.pop(), kth) {
                (Some(open), Some(kth)) if open.score() < self.slackened(kth, margin, query) => {
                    frontier.push(open);
                    None
                }
                (open, _) => open,
            };
            if let Some(next) = next {
                at.prefetch_block(next.row());
            }
            if at.has_fronts() {
                prefetch_fronts(&at, &mut coming, visited);
            }
            let Some(best) = coming.turn(next) else {
                if coming.is_empty() {
                    break;
                }
                continue;
            };
            // Estimates of the k best so far stand in for distances that are not known yet.
            let known = kth.unwrap_or(early.floor());
            let limit = if known == Entry::NONE {
                f32::INFINITY
            } else {
                -self.slackened(known, margin + WINDOW, query)
            };
            let node = at.node(best.row())?;
            let distance = node.distance(query);
            let find = Entry::new(-distance, node.row().min(MAX_ROWS));
            if kth.is_some_and(|kth| find < kth) {
                patience -= 1;
                if patience == 0 {
                    coming.rest().for_each(|open| frontier.push(open));
                    break;
                }
            }
            top.offer(find);
            let due = Due {
                node: &node,
                distance,
                fresh: coming.fresh(),
            };
            let whole = expand(&at, &due, limit, query, visited, |entry| {
                frontier.push(entry);
                if kth.is_none() {
                    early.offer(entry);
                }
            })?;
            if !whole {
                return Err(self.broken(best.row()));
            }
        }
        Ok(())
    }

    /// Takes the distances of the best open estimates, which the walk had no need to expand. Those that are among the k
    /// best after all are open again, as what they are; whether there are any.
    fn look_again(&self, effort: Effort, scratch: &mut Scratch) -> Read<bool> {
        let Scratch {
            frontier,
            top,
            query,
            pending,
            ..
        } = scratch;
        let at = self.lookup();
        pending.clear();
        let kth = top.entries().get(effort.k - 1).copied();
        let last = kth.map(|kth| self.slackened(kth, effort.margin(query) + WINDOW, query));
        while pending.len() < SECOND_LOOK {
            let Some(open) = frontier.pop() else { break };
            if last.is_some_and(|last| open.score() < last) {
                break;
            }
            at.prefetch_row(open.row());
            pending.push(open);
        }
        let mut better = false;
        for open in pending.drain(..) {
            let node = at.node(open.row())?;
            let distance = node.distance(query);
            if kth.is_none_or(|kth| -distance > kth.score()) {
                at.prefetch_block(open.row());
                frontier.push(Entry::new(-distance, open.row()));
                better = true;
            } else {
                top.offer(Entry::new(-distance, node.row().min(MAX_ROWS)));
            }
        }
        Ok(better)
    }
}

/// What a walk that collects keeps to.
#[derive(Clone, Copy)]
pub struct Limits<'a> {
    /// Nodes that may be expanded.
    pub budget: usize,
    /// Nodes that are walked around as if they had never been linked.
    pub absent: &'a [u32],
}

impl Graph {
    /// Walks towards `scratch.query`, offering nodes whose rows are accepted to `collect` with minus their squared distances
    /// as scores, until no open node can improve it. Routing uses all nodes; one that is not accepted only leads on.
    ///
    /// Returns false if the budget did not suffice, when a scan of the accepted rows is the cheaper way to the answer.
    ///
    /// # Errors
    /// The damage, where blocks lie in a damaged part of a file.
    pub fn collect(
        &self,
        effort: Effort,
        accept: impl Fn(u32) -> bool,
        collect: &mut impl Collect,
        limits: Limits<'_>,
        scratch: &mut Scratch,
    ) -> Read<bool> {
        let Scratch {
            frontier,
            visited,
            query,
            starts,
            pending,
            ..
        } = scratch;
        let at = self.lookup();
        let margin = effort.margin(query) + COLLECTING;
        self.begin(limits.absent, visited);
        frontier.clear();
        pending.clear();
        self.starts(query, visited, starts)?;
        for &start in starts.entries() {
            frontier.push(start);
            pending.push(start);
        }
        self.offer_accepted(&at, pending, &accept, (effort.k, margin), collect, query)?;
        let mut left = limits.budget;
        let mut coming = Coming::default();
        loop {
            let kth = collect.kth(effort.k);
            let full = kth > Entry::NONE;
            let next = match frontier.pop() {
                Some(open) if full && open.score() < self.slackened(kth, margin, query) => {
                    frontier.push(open);
                    None
                }
                open => open,
            };
            if let Some(next) = next {
                at.prefetch_block(next.row());
            }
            if at.has_fronts() {
                prefetch_fronts(&at, &mut coming, visited);
            }
            let Some(best) = coming.turn(next) else {
                if coming.is_empty() {
                    break;
                }
                continue;
            };
            if left == 0 {
                return Ok(false);
            }
            left -= 1;
            let limit = if full {
                -self.slackened(kth, margin + WINDOW, query)
            } else {
                f32::INFINITY
            };
            let node = at.node(best.row())?;
            let distance = node.distance(query);
            let due = Due {
                node: &node,
                distance,
                fresh: coming.fresh(),
            };
            let whole = expand(&at, &due, limit, query, visited, |entry| {
                frontier.push(entry);
                pending.push(entry);
            })?;
            if !whole {
                return Err(self.broken(best.row()));
            }
            self.offer_accepted(&at, pending, &accept, (effort.k, margin), collect, query)?;
        }
        Ok(true)
    }

    /// Offers those of the nodes just seen that are accepted and may be good enough, by their distances.
    fn offer_accepted(
        &self,
        at: &Lookup<'_>,
        pending: &mut Vec<Entry>,
        accept: &impl Fn(u32) -> bool,
        (k, margin): (usize, f32),
        collect: &mut impl Collect,
        query: &Query,
    ) -> Read<()> {
        let mut kept = 0;
        for i in 0..pending.len() {
            let seen = pending[i];
            let kth = collect.kth(k);
            let promising =
                kth == Entry::NONE || seen.score() > self.slackened(kth, margin + WINDOW, query);
            if promising && accept(self.row_of(seen.row())?) {
                at.prefetch_row(seen.row());
                pending[kept] = seen;
                kept += 1;
            }
        }
        for seen in pending.drain(..).take(kept) {
            let distance = at.node(seen.row())?.distance(query);
            collect.offer(Entry::new(-distance, self.row_of(seen.row())?));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::insert::Source;
    use crate::graph::node::estimates;
    use crate::graph::real;
    use crate::pool::Control;
    use crate::random::Stream;

    const DIM: usize = 96;

    struct Clusters(Vec<f32>);

    impl Clusters {
        fn new(rows: usize, seed: u64) -> Self {
            let mut all = Vec::new();
            let number =
                |stream: &mut Stream| (stream.next_u64() >> 40) as f32 / (1 << 24) as f32 - 0.5;
            for row in 0..rows as u64 {
                let mut own = Stream::new(seed, 1, row);
                let mut centre = Stream::new(9, 2, own.below(20));
                all.extend((0..DIM).map(|_| number(&mut centre) + 0.5 * number(&mut own)));
            }
            Clusters(all)
        }
    }

    impl Source for Clusters {
        fn dim(&self) -> usize {
            DIM
        }

        fn read(&self, row: u32, out: &mut [f32]) -> Read<()> {
            out.copy_from_slice(&self.0[row as usize * DIM..][..DIM]);
            Ok(())
        }
    }

    #[test]
    fn estimates_are_near_the_distances_and_not_biased() {
        for (blocks, most) in [
            (Blocks::Fused, 0.02),
            (Blocks::Single8, 0.02),
            (Blocks::Single5, 0.1),
        ] {
            estimates_of(blocks, most);
        }
    }

    fn estimates_of(blocks: Blocks, most: f32) {
        let source = Clusters::new(3000, 1);
        let rows: Vec<u32> = (0..3000).collect();
        let graph = Graph::build(&source, &rows, 3000, blocks, 0, &Control::default()).unwrap();
        graph.validate().unwrap();
        let queries = Clusters::new(20, 2);
        let mut scratch = Scratch::default();
        let (mut sum, mut squares, mut worst, mut count) = (0.0, 0.0, 0.0f32, 0.0);
        for vector in queries.0.chunks(DIM) {
            scratch.query.prepare(graph.frame(), vector, 1.0, None);
            let query = &scratch.query;
            for name in graph.names().step_by(17) {
                let node = graph.node(name).unwrap();
                let distance = |name: u32| {
                    let row = graph.row_of(name).unwrap() as usize;
                    osler_kernels::l2(vector, &source.0[row * DIM..][..DIM])
                        * graph.frame().per_unit().powi(2)
                };
                let own = node.distance(query);
                worst = worst.max((own - distance(name)).abs());
                let mut all = [0.0; 32];
                if blocks == Blocks::Fused {
                    node.estimates(query, own, f32::INFINITY, &mut all);
                } else {
                    let at = graph.lookup();
                    for (estimate, &name) in all.iter_mut().zip(real(node.all())) {
                        *estimate = estimates([at.front(name).unwrap(); 4], query)[3];
                    }
                }
                for (&other, estimate) in real(node.all()).iter().zip(all) {
                    let error = estimate - distance(other);
                    sum += f64::from(error);
                    squares += f64::from(error * error);
                    count += 1.0;
                }
            }
        }
        assert!(worst < most, "{blocks:?}: {worst}");
        assert!((sum / count).abs() < 0.01, "{blocks:?}: {}", sum / count);
        let spread = (squares / count).sqrt();
        assert!(spread < 0.3, "{blocks:?}: {spread}");
    }

    #[test]
    fn a_row_of_five_bits_that_is_written_again_stays_the_same() {
        let source = Clusters::new(2500, 3);
        let rows: Vec<u32> = (0..2500).collect();
        let graph = Graph::build(
            &source,
            &rows,
            2500,
            Blocks::Single5,
            0,
            &Control::default(),
        )
        .unwrap();
        let new: Vec<u32> = (0..2500).collect();
        let again = graph.without(&new, &Control::default()).unwrap();
        let (mut a, mut b) = (Vec::new(), Vec::new());
        for row in 0..2500 {
            let first = graph.coded(graph.node_of(row).unwrap(), &mut a).unwrap();
            let second = again.coded(again.node_of(row).unwrap(), &mut b).unwrap();
            assert_eq!(first.codes, second.codes);
            assert_eq!((first.scale, first.square), (second.scale, second.square));
        }
    }
}
