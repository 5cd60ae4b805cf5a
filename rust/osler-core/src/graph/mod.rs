//! The navigable small-world graph: blocks of nodes, the roots that every walk begins with, and `validate`.
//!
//! Follows HNSW (Malkov and Yashunin, arXiv 1603.09320) with two changes that measured better: the upper levels are one
//! sample of rows, whose codes lie in the roots' blocks and are scanned at once, and the neighbours' codes lie in their
//! node's block. Holds nodes and the frame; full vectors belong to the index.

pub mod assemble;
pub mod bytes;
pub mod edges;
mod expand;
pub mod frame;
pub mod insert;
mod lookup;
pub mod node;
pub mod partition;
pub mod prune;
pub mod query;
pub mod repair;
mod scan;
pub mod scratch;
pub mod search;
pub mod stored_row;

use std::sync::Arc;

use crate::chunks::Rows;
use crate::error::{Damage, Read};
use frame::{Coded, Frame};
pub use node::{Blocks, NONE};
use node::{Layout, Node, SIZES, index_of_name, size_of_name, slots};
use prune::Distances;

/// Blocks that a walk begins with, each with codes of 32 rows.
pub const ROOTS: usize = 8;

const BROKEN_LINKS: &str = "a node names neighbours that do not exist";

/// The graph of one snapshot; cloning shares all chunks.
#[derive(Clone)]
pub struct Graph {
    frame: Arc<Frame>,
    /// Blocks of both sizes, and their fronts where those lie apart.
    nodes: [Rows<u32>; SIZES],
    fronts: Option<[Rows<u32>; SIZES]>,
    /// The row of each node.
    rows: [Rows<u32>; SIZES],
    /// Blocks whose own row is the centre, and whose neighbours are a sample of all rows.
    roots: Rows<u32>,
    /// The node of each row; [`NONE`] where it is not linked yet.
    node_of: Rows<u32>,
    seed: u64,
}

/// The tables of a graph as they are written to a file.
pub struct Tables<'a> {
    /// Blocks of both sizes.
    pub nodes: &'a [Rows<u32>; SIZES],
    /// Their fronts where those lie apart.
    pub fronts: Option<&'a [Rows<u32>; SIZES]>,
    /// The row of each node.
    pub rows: &'a [Rows<u32>; SIZES],
    /// Blocks of the roots.
    pub roots: &'a Rows<u32>,
    /// The node of each row.
    pub node_of: &'a Rows<u32>,
    /// Where the rows were before they were centred.
    pub frame: &'a Frame,
}

impl Graph {
    /// The graph of tables that were read from a file.
    ///
    /// # Errors
    /// What is wrong with them, in words; links are checked when they are walked.
    pub fn from_tables(
        frame: Frame,
        nodes: [Rows<u32>; SIZES],
        fronts: Option<[Rows<u32>; SIZES]>,
        rows: [Rows<u32>; SIZES],
        roots: Rows<u32>,
        node_of: Rows<u32>,
        seed: u64,
    ) -> std::result::Result<Self, &'static str> {
        let layout = |size| Layout::new(frame.blocks(), frame.padded(), size);
        let has_front = |size: usize| match &fronts {
            None => layout(size).is_fused(),
            Some(fronts) => {
                !layout(size).is_fused()
                    && fronts[size].width() == layout(size).front()
                    && fronts[size].len() == nodes[size].len()
            }
        };
        let whole = (0..SIZES).all(|size| {
            nodes[size].width() == layout(size).words()
                && has_front(size)
                && rows[size].width() == 1
                && rows[size].len() == nodes[size].len()
        });
        let linked = nodes[0].len() + nodes[1].len();
        if !whole
            || roots.width() != Self::root_layout(&frame).words()
            || node_of.width() != 1
            || linked != node_of.len()
        {
            return Err("the tables of the graph do not fit each other");
        }
        if roots.is_empty() != (linked == 0) {
            return Err("the graph has no roots");
        }
        Ok(Graph {
            frame: Arc::new(frame),
            nodes,
            fronts,
            rows,
            roots,
            node_of,
            seed,
        })
    }

    /// The tables, to be written to a file.
    pub fn tables(&self) -> Tables<'_> {
        Tables {
            nodes: &self.nodes,
            fronts: self.fronts.as_ref(),
            rows: &self.rows,
            roots: &self.roots,
            node_of: &self.node_of,
            frame: &self.frame,
        }
    }

    /// The space that the graph is built in.
    pub fn frame(&self) -> &Frame {
        &self.frame
    }

    /// Rows that have a place, linked or not.
    pub fn rows(&self) -> usize {
        self.node_of.len()
    }

    /// Bytes that blocks and names take.
    pub fn bytes(&self) -> usize {
        let sized = self.nodes.iter().chain(&self.rows);
        sized
            .chain(self.fronts.iter().flatten())
            .chain([&self.roots, &self.node_of])
            .map(Rows::bytes)
            .sum()
    }

    /// Nodes whose blocks are of each size.
    pub fn sizes(&self) -> [usize; SIZES] {
        [self.nodes[0].len(), self.nodes[1].len()]
    }

    /// How many rows of small numbers are as many bytes as a hop reads, on average. Fronts that lie apart count for every place
    /// of a node, of which half are filled mostly: each is a fetch of its own.
    pub fn hop_in_rows(&self) -> f64 {
        let sizes = self.sizes();
        let words: usize = (0..SIZES)
            .map(|size| {
                let layout = self.layout(size);
                let fronts = slots(size) * layout.front();
                sizes[size] * (layout.words() + if layout.is_fused() { 0 } else { fronts })
            })
            .sum();
        let rows = sizes.iter().sum::<usize>().max(1);
        words as f64 / (rows * self.layout(0).row()) as f64
    }

    #[inline(always)]
    fn layout(&self, size: usize) -> Layout {
        Layout::new(self.frame.blocks(), self.frame.padded(), size)
    }

    /// The layout of the roots: their neighbours' codes are in them, whatever those of nodes are in.
    #[inline(always)]
    fn root_layout(frame: &Frame) -> Layout {
        Layout::new(Blocks::Fused, frame.padded(), SIZES - 1)
    }

    /// Whether a name is that of a node.
    #[inline(always)]
    fn exists(&self, node: u32) -> bool {
        index_of_name(node) < self.nodes[size_of_name(node)].len()
    }

    /// A node that exists.
    #[inline(always)]
    fn node(&self, node: u32) -> Read<Node<'_>> {
        let (size, index) = (size_of_name(node), index_of_name(node));
        let (block, layout) = (self.nodes[size].row(index)?, self.layout(size));
        Ok(match &self.fronts {
            None => Node::new(block, layout),
            Some(fronts) => Node::of(fronts[size].row(index)?, block, layout),
        })
    }

    #[inline(always)]
    fn root(&self, index: usize) -> Read<Node<'_>> {
        Ok(Node::new(
            self.roots.row(index)?,
            Self::root_layout(&self.frame),
        ))
    }

    /// Asks for the node's own row and what is known about it.
    #[inline(always)]
    fn prefetch_row(&self, node: u32) {
        let (size, index) = (size_of_name(node), index_of_name(node));
        match &self.fronts {
            None => self.nodes[size].prefetch_start(index, self.layout(size).front()),
            Some(fronts) => {
                fronts[size].prefetch(index);
                self.nodes[size].prefetch(index);
            }
        }
    }

    /// The row of a node that exists.
    #[inline(always)]
    pub fn row_of(&self, node: u32) -> Read<u32> {
        let row = self.rows[size_of_name(node)].value(index_of_name(node))?;
        if row as usize >= self.rows() {
            return Err(self.misnamed(row));
        }
        Ok(row)
    }

    /// The node of a row; [`NONE`] if it is not linked yet.
    pub fn node_of(&self, row: u32) -> Read<u32> {
        self.node_of.value(row as usize)
    }

    /// The row of a node that exists, in small numbers; `space` is room for them.
    #[inline(always)]
    fn coded<'a>(&'a self, node: u32, space: &'a mut Vec<i8>) -> Read<Coded<'a>> {
        Ok(self.node(node)?.coded(space))
    }

    /// Says that a node names a row that does not exist.
    #[cold]
    pub(crate) fn misnamed(&self, row: u32) -> Box<Damage> {
        self.node_of
            .damage(0, &format!("a node names row {row}, which does not exist"))
    }

    /// Says that a node names others that do not exist.
    #[cold]
    pub(crate) fn broken(&self, node: u32) -> Box<Damage> {
        self.nodes[size_of_name(node)].damage(index_of_name(node), BROKEN_LINKS)
    }

    /// All names, small blocks first.
    fn names(&self) -> impl Iterator<Item = u32> + '_ {
        (0..SIZES)
            .flat_map(|size| (0..self.nodes[size].len()).map(move |index| node::name(size, index)))
    }

    /// Checks every invariant: neighbours are other nodes, once each, without gaps; real links come first; rows and nodes
    /// name each other; the roots name nodes.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Read<()> {
        for name in self.names() {
            let node = self.node(name)?;
            let all = node.all();
            let list = real(all);
            let sound = all[list.len()..].iter().all(|&l| l == NONE)
                && list.iter().all(|&l| self.exists(l) && l != name)
                && (1..list.len()).all(|i| !list[..i].contains(&list[i]))
                && node.count() <= list.len()
                && node.is_within_reach()
                && node.row() == self.row_of(name)?
                && (node.row() as usize) < self.rows()
                && self.node_of(node.row())? == name;
            if !sound {
                return Err(self.broken(name));
            }
        }
        for index in 0..self.roots.len() {
            if !real(self.root(index)?.all())
                .iter()
                .all(|&l| self.exists(l))
            {
                return Err(self.roots.damage(index, BROKEN_LINKS));
            }
        }
        Ok(())
    }
}

impl Distances for Graph {
    #[inline]
    fn to_four(&self, from: u32, to: [u32; 4]) -> Read<[f32; 4]> {
        let (mut space, mut others) = (Vec::new(), Vec::new());
        let from = self.coded(from, &mut space)?;
        let mut distances = [0.0; 4];
        for (distance, other) in distances.iter_mut().zip(to) {
            *distance = from.distance(&self.coded(other, &mut others)?);
        }
        Ok(distances)
    }

    #[inline]
    fn prefetch(&self, at: u32) {
        self.prefetch_row(at);
    }
}

/// The names before the first empty place.
#[inline(always)]
pub(crate) fn real(names: &[u32]) -> &[u32] {
    &names[..names.iter().position(|&l| l == NONE).unwrap_or(names.len())]
}
