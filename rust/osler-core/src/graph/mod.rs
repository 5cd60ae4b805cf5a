//! The navigable small-world graph: blocks of nodes, the roots that every walk begins with, and `validate`.
//!
//! Follows HNSW (Malkov and Yashunin, arXiv 1603.09320) with two changes that measured better: the upper levels are one
//! sample of rows, whose codes lie in the roots' blocks and are scanned at once, and the neighbours' codes lie in their
//! node's block. Holds nodes and the frame; full vectors belong to the index.

pub mod assemble;
pub mod bytes;
pub mod edges;
pub mod frame;
pub mod insert;
pub mod node;
pub mod partition;
pub mod prune;
pub mod query;
pub mod repair;
pub mod scratch;
pub mod search;
pub mod stored_row;

use std::sync::Arc;

use crate::chunks::Rows;
use crate::error::{Damage, Read};
use frame::{Coded, Frame};
pub use node::NONE;
use node::{Layout, Node, SIZES, index_of_name, size_of_name};
use prune::Distances;

/// Blocks that a walk begins with, each with codes of 32 rows.
pub const ROOTS: usize = 8;

const BROKEN_LINKS: &str = "a node names neighbours that do not exist";

/// The graph of one snapshot; cloning shares all chunks.
#[derive(Clone)]
pub struct Graph {
    frame: Arc<Frame>,
    /// Blocks of both sizes.
    nodes: [Rows<u32>; SIZES],
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
        rows: [Rows<u32>; SIZES],
        roots: Rows<u32>,
        node_of: Rows<u32>,
        seed: u64,
    ) -> std::result::Result<Self, &'static str> {
        let words = |size| Layout::new(frame.padded(), size).words();
        let whole = (0..SIZES).all(|size| {
            nodes[size].width() == words(size)
                && rows[size].width() == 1
                && rows[size].len() == nodes[size].len()
        });
        let linked = nodes[0].len() + nodes[1].len();
        if !whole || roots.width() != words(1) || node_of.width() != 1 || linked != node_of.len() {
            return Err("the tables of the graph do not fit each other");
        }
        if roots.is_empty() != (linked == 0) {
            return Err("the graph has no roots");
        }
        Ok(Graph {
            frame: Arc::new(frame),
            nodes,
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
            .chain([&self.roots, &self.node_of])
            .map(Rows::bytes)
            .sum()
    }

    /// Nodes whose blocks are of each size.
    pub fn sizes(&self) -> [usize; SIZES] {
        [self.nodes[0].len(), self.nodes[1].len()]
    }

    /// The share of a node's block, on average, that its own row takes.
    pub fn row_share(&self) -> f64 {
        let [small, large] = self.sizes();
        let words = small * self.layout(0).words() + large * self.layout(1).words();
        ((small + large) * self.frame.padded()) as f64 / (4 * words.max(1)) as f64
    }

    #[inline(always)]
    fn layout(&self, size: usize) -> Layout {
        Layout::new(self.frame.padded(), size)
    }

    /// Whether a name is that of a node.
    #[inline(always)]
    fn exists(&self, node: u32) -> bool {
        index_of_name(node) < self.nodes[size_of_name(node)].len()
    }

    /// A node that exists.
    #[inline(always)]
    fn node(&self, node: u32) -> Read<Node<'_>> {
        let size = size_of_name(node);
        Ok(Node::new(
            self.nodes[size].row(index_of_name(node))?,
            self.layout(size),
        ))
    }

    #[inline(always)]
    fn root(&self, index: usize) -> Read<Node<'_>> {
        Ok(Node::new(self.roots.row(index)?, self.layout(1)))
    }

    #[inline(always)]
    fn prefetch_block(&self, node: u32) {
        self.nodes[size_of_name(node)].prefetch(index_of_name(node));
    }

    /// Asks for the node's own row and what is known about it, which its block begins with.
    #[inline(always)]
    fn prefetch_row(&self, node: u32) {
        let size = size_of_name(node);
        self.nodes[size].prefetch_start(index_of_name(node), self.layout(size).links());
    }

    /// The row of a node that exists.
    #[inline(always)]
    pub fn row_of(&self, node: u32) -> Read<u32> {
        self.rows[size_of_name(node)].value(index_of_name(node))
    }

    /// The node of a row; [`NONE`] if it is not linked yet.
    pub fn node_of(&self, row: u32) -> Read<u32> {
        self.node_of.value(row as usize)
    }

    /// The 8-bit form of a node that exists.
    fn coded(&self, node: u32) -> Read<Coded<'_>> {
        Ok(self.node(node)?.coded())
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
            let coded = node.coded();
            let sound = all[list.len()..].iter().all(|&l| l == NONE)
                && list.iter().all(|&l| self.exists(l) && l != name)
                && (1..list.len()).all(|i| !list[..i].contains(&list[i]))
                && node.count() <= list.len()
                && coded.scale.is_finite()
                && coded.square.is_finite()
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
        let from = self.coded(from)?;
        let mut distances = [0.0; 4];
        for (distance, other) in distances.iter_mut().zip(to) {
            *distance = from.distance(&self.coded(other)?);
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
