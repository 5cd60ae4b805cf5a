//! Lists of neighbours to a graph: a size, a place and a name for every node, random neighbours in the empty places, and
//! the roots.
//!
//! Blocks are encoded in parallel, each in its place, so the bytes do not depend on the number of threads.

use std::sync::Arc;

use rayon::prelude::*;

use super::bytes::ByteRows;
use super::frame::{Coded, CodedRows, Frame, REACH};
use super::insert::Source;
use super::node::{Blocks, Encoder, Layout, NONE, SIZES, index_of_name, name, size_of_name, slots};
use super::prune::Rule;
use super::{Graph, ROOTS, edges, partition, real};
use crate::chunks::Rows;
use crate::error::{Error, Read, Result};
use crate::pool::Control;
use crate::random::Stream;

/// Purpose of the random stream that draws the sample.
const SAMPLE: u64 = 6;

/// Most links that a list can have.
pub const DEGREE: usize = slots(SIZES - 1);

/// How many neighbours before its turn one is fetched from memory.
const AHEAD: usize = 4;

/// Rows that are coded before the next check for a stop.
const CODED_TOGETHER: usize = 1024;

/// How far the farthest of some rows lies from the centre of a frame, in its units.
fn farthest(source: &impl Source, rows: &[u32], frame: &Frame) -> Read<f64> {
    rows.par_chunks(CODED_TOGETHER)
        .map(|rows| {
            let (mut vector, mut most) = (vec![0.0; source.dim()], 0.0f64);
            for &row in rows {
                source.read(row, &mut vector)?;
                most = most.max(frame.distance(&vector));
            }
            Ok(most)
        })
        .try_reduce(|| 0.0, |a, b| Ok(a.max(b)))
}

impl Graph {
    /// Whether rows of the source can be put in: what lies too far from the rest needs a frame of its own.
    ///
    /// # Errors
    /// The damage, where a row lies in a damaged block of a file.
    pub fn reaches(&self, source: &impl Source, rows: &[u32]) -> Read<bool> {
        Ok(farthest(source, rows, &self.frame)? <= REACH)
    }

    /// The graph over `rows` of the source, ascending, of `total` that there are.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`], or damage of the file that the rows lie in.
    pub fn build(
        source: &impl Source,
        rows: &[u32],
        total: usize,
        blocks: Blocks,
        seed: u64,
        control: &Control,
    ) -> Result<Graph> {
        let dim = source.dim();
        let frame = Frame::fit(rows.len(), dim, blocks, seed, |at, out| {
            source.read(rows[at as usize], out)
        })?;
        // Those that are linked later, too; the fit looks at a sample.
        let every: Vec<u32> = (0..total as u32).collect();
        let farthest = farthest(source, &every, &frame)?;
        let frame = frame.reaching(farthest);
        let padded = frame.padded();
        let mut coded = CodedRows::zeroed(padded, rows.len());
        coded
            .codes
            .par_chunks_mut(CODED_TOGETHER * padded)
            .zip(coded.scales.par_chunks_mut(CODED_TOGETHER))
            .zip(coded.squares.par_chunks_mut(CODED_TOGETHER))
            .zip(rows.par_chunks(CODED_TOGETHER))
            .try_for_each(|(((codes, scales), squares), rows)| {
                control.check()?;
                let (mut vector, mut turned) = (vec![0.0; dim], vec![0.0; padded]);
                for (i, &row) in rows.iter().enumerate() {
                    source.read(row, &mut vector)?;
                    frame.turn(&mut vector, &mut turned);
                    let codes = &mut codes[i * padded..][..padded];
                    [scales[i], squares[i]] = Frame::encode(&turned, codes);
                }
                Ok::<_, Error>(())
            })?;
        let params = partition::Params {
            seed,
            ..partition::Params::default()
        };
        let mut edges = {
            let bytes = ByteRows::new(padded, &coded.codes, &coded.scales)?;
            edges::build(&bytes, params, control)?
        };
        Graph::assemble(
            Arc::new(frame),
            &coded,
            rows,
            &mut edges,
            total,
            seed,
            control,
        )
    }

    /// The graph whose row `rows[i]` has the 8-bit row `i` of `coded` and links to the `i`th [`DEGREE`] of `edges`, given by
    /// places of `rows` and ended by [`NONE`]. There are `total` rows; those that are not in `rows` are not linked yet.
    ///
    /// # Errors
    /// [`crate::error::Error::Cancelled`].
    pub fn assemble(
        frame: Arc<Frame>,
        coded: &CodedRows,
        rows: &[u32],
        edges: &mut [u32],
        total: usize,
        seed: u64,
        control: &Control,
    ) -> Result<Graph> {
        let mut graph = Graph::empty(frame, seed);
        let counts: Vec<u8> = edges
            .chunks_exact(DEGREE)
            .map(|list| real(list).len() as u8)
            .collect();
        let order = near_to_near(edges);
        let mut names = vec![NONE; counts.len()];
        let mut sizes = [0; SIZES];
        for &place in &order {
            let size = usize::from(usize::from(counts[place as usize]) > slots(0));
            names[place as usize] = name(size, sizes[size]);
            sizes[size] += 1;
        }
        if graph.fronts.is_none() {
            edges::fill(edges, DEGREE, &Rule::default(), seed);
        }
        let lists = edges.as_chunks::<DEGREE>().0;
        for size in 0..SIZES {
            let layout = graph.layout(size);
            let of_size = |&place: &u32| size_of_name(names[place as usize]) == size;
            let places: Vec<u32> = order.iter().copied().filter(of_size).collect();
            // Rows that were held out are linked later.
            let room = places.len() + total - rows.len();
            let mut nodes = Rows::zeroed(layout.words(), places.len(), room);
            let encode = |encoder: &mut Encoder, block: &mut [u32], place: u32| {
                let list = &real(&lists[place as usize]);
                let list = &list[..list.len().min(slots(size))];
                let mut near = [NONE; DEGREE];
                for (name, &other) in near.iter_mut().zip(list) {
                    *name = names[other as usize];
                }
                let (row, own) = (rows[place as usize], coded.row(place as usize));
                let links = usize::from(counts[place as usize]);
                encoder.begin(block, layout, row, own, links, &near[..list.len()]);
                if layout.is_fused() {
                    for (i, &other) in list.iter().enumerate() {
                        if let Some(&soon) = list.get(i + AHEAD) {
                            osler_kernels::prefetch(coded.row(soon as usize).codes);
                        }
                        encoder.neighbour(block, layout, i, coded.row(other as usize));
                    }
                }
            };
            if let Some(fronts) = &mut graph.fronts {
                fronts[size] = Rows::zeroed(layout.front(), places.len(), room);
                let (bodies, fronts) = (nodes.all_mut(), fronts[size].all_mut());
                let blocks = bodies.into_par_iter().zip(fronts).zip(&places);
                let init = || (Encoder::default(), vec![0; layout.front() + layout.body()]);
                blocks.try_for_each_init(init, |(encoder, block), ((body, front), &place)| {
                    encode(encoder, block, place);
                    front.copy_from_slice(&block[..layout.front()]);
                    body.copy_from_slice(&block[layout.front()..]);
                    control.check()
                })?;
            } else {
                let blocks = nodes.all_mut().into_par_iter().zip(&places);
                blocks.try_for_each_init(Encoder::default, |encoder, (block, &place)| {
                    encode(encoder, block, place);
                    control.check()
                })?;
            }
            graph.nodes[size] = nodes;
            let of_places: Vec<u32> = places.iter().map(|&place| rows[place as usize]).collect();
            graph.rows[size] = Rows::from_values(&of_places);
        }
        graph.grow(total)?;
        for (&row, &name) in rows.iter().zip(&names) {
            graph.node_of.row_mut(row as usize)?[0] = name;
        }
        graph.take_roots()?;
        Ok(graph)
    }

    /// Adds the block of a row, front and body, behind those of its size.
    pub(super) fn push(&mut self, size: usize, block: &[u32], row: u32) -> Read<()> {
        match &mut self.fronts {
            None => self.nodes[size].push(block)?,
            Some(fronts) => {
                let (front, body) = block.split_at(fronts[size].width());
                fronts[size].push(front)?;
                self.nodes[size].push(body)?;
            }
        }
        self.rows[size].push(&[row])
    }

    /// Moves what was made or changed piece by piece into huge pages.
    pub fn gather(&mut self) {
        let fronts = self.fronts.iter_mut().flatten();
        self.nodes.iter_mut().chain(fronts).for_each(Rows::gather);
    }

    /// A graph without rows.
    fn empty(frame: Arc<Frame>, seed: u64) -> Self {
        let layout = |size| Layout::new(frame.blocks(), frame.padded(), size);
        let sized = |words: fn(Layout) -> usize| [0, 1].map(|size| Rows::new(words(layout(size))));
        Graph {
            nodes: sized(Layout::words),
            fronts: (!layout(0).is_fused()).then(|| sized(Layout::front)),
            rows: [Rows::new(1), Rows::new(1)],
            roots: Rows::new(Self::root_layout(&frame).words()),
            node_of: Rows::new(1),
            frame,
            seed,
        }
    }

    /// Makes room for rows that will be linked.
    pub(super) fn grow(&mut self, rows: usize) -> Read<()> {
        while self.node_of.len() < rows {
            self.node_of.push(&[NONE])?;
        }
        Ok(())
    }

    /// Draws the sample that walks begin with.
    pub(super) fn take_roots(&mut self) -> Read<()> {
        let layout = Self::root_layout(&self.frame);
        let [small, large] = self.sizes();
        let linked = small + large;
        let mut stream = Stream::new(self.seed, SAMPLE, linked as u64);
        let mut sample: Vec<u32> = Vec::with_capacity(ROOTS * DEGREE);
        let mut seen = std::collections::HashSet::new();
        while sample.len() < (ROOTS * DEGREE).min(linked) {
            let at = stream.below(linked as u64) as usize;
            if seen.insert(at) {
                sample.push(if at < small {
                    name(0, at)
                } else {
                    name(1, at - small)
                });
            }
        }
        let mut roots = Rows::new(layout.words());
        let mut encoder = Encoder::default();
        let zero = vec![0; self.frame.padded()];
        let centre = Coded {
            codes: &zero,
            scale: 0.0,
            square: 0.0,
        };
        let (mut block, mut space) = (vec![0; layout.words()], Vec::new());
        for names in sample.chunks(DEGREE) {
            encoder.begin(&mut block, layout, NONE, centre, names.len(), names);
            for (i, &name) in names.iter().enumerate() {
                let other = self.coded(name, &mut space)?;
                encoder.neighbour(&mut block, layout, i, other);
            }
            roots.push(&block)?;
        }
        self.roots = roots;
        Ok(())
    }

    /// Names of random nodes for the empty places of a new node that has the links `all`.
    pub(super) fn random_names(&self, all: &mut Vec<u32>, most: usize, row: u32) {
        let [small, large] = self.sizes();
        let real = all.len();
        let mut places = vec![NONE; most];
        for (place, &node) in places.iter_mut().zip(&*all) {
            let before = if size_of_name(node) == 0 { 0 } else { small };
            *place = (before + index_of_name(node)) as u32;
        }
        // The row is in no place yet, so none has to be kept out; its number makes the draw its own.
        let own = self.seed ^ u64::from(row).rotate_left(32);
        edges::fill_row(&mut places, real, NONE, own, small + large);
        let places = places[real..].iter().filter(|&&place| place != NONE);
        all.extend(places.map(|&place| {
            let place = place as usize;
            if place < small {
                name(0, place)
            } else {
                name(1, place - small)
            }
        }));
    }
}

/// All places in an order in which near ones mostly follow each other, so that a walk stays in few pages of memory: from each
/// to the nearest of its links that has not been taken, depth first.
fn near_to_near(edges: &[u32]) -> Vec<u32> {
    let lists = edges.as_chunks::<DEGREE>().0;
    let mut order = Vec::with_capacity(lists.len());
    let mut taken = vec![false; lists.len()];
    let mut open = Vec::new();
    for start in 0..lists.len() as u32 {
        open.push(start);
        while let Some(place) = open.pop() {
            if std::mem::replace(&mut taken[place as usize], true) {
                continue;
            }
            order.push(place);
            let links = real(&lists[place as usize]);
            open.extend(links.iter().rev().filter(|&&link| !taken[link as usize]));
        }
    }
    order
}
