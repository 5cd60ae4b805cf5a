//! Blocks and fronts of a graph with the way to them looked up once, for walks and scans.
//!
//! Reads tables; asks the processor for what is read soon.

use super::frame::Coded;
use super::node::{Layout, Node, SIZES, index_of_name, row_of_fused, size_of_name};
use crate::chunks::View;
use crate::error::Read;

/// The tables of a graph that walks read.
pub struct Lookup<'a> {
    nodes: [View<'a, u32>; SIZES],
    /// None: they are in the blocks.
    fronts: Option<[View<'a, u32>; SIZES]>,
    layouts: [Layout; SIZES],
}

impl super::Graph {
    /// The tables that walks read, looked up.
    #[inline(always)]
    pub(super) fn lookup(&self) -> Lookup<'_> {
        Lookup {
            nodes: [self.nodes[0].view(), self.nodes[1].view()],
            fronts: self.fronts.as_ref().map(|f| [f[0].view(), f[1].view()]),
            layouts: [self.layout(0), self.layout(1)],
        }
    }
}

impl<'a> Lookup<'a> {
    /// Whether neighbours' codes are in their own fronts.
    #[inline(always)]
    pub fn has_fronts(&self) -> bool {
        self.fronts.is_some()
    }

    /// Whether a name is that of a node.
    #[inline(always)]
    pub fn exists(&self, node: u32) -> bool {
        index_of_name(node) < self.nodes[size_of_name(node)].count()
    }

    /// A node that exists.
    ///
    /// # Errors
    /// The damage, where its block lies in a damaged part of a file.
    #[inline(always)]
    pub fn node(&self, node: u32) -> Read<Node<'a>> {
        let (size, index) = (size_of_name(node), index_of_name(node));
        let (block, layout) = (self.nodes[size].row(index)?, self.layouts[size]);
        Ok(match &self.fronts {
            None => Node::new(block, layout),
            Some(fronts) => Node::of(fronts[size].row(index)?, block, layout),
        })
    }

    /// The row of a node that exists, which has 8 bits a number.
    ///
    /// # Errors
    /// The damage, where it lies in a damaged part of a file.
    #[inline(always)]
    pub fn row_of_bytes(&self, node: u32) -> Read<Coded<'a>> {
        if self.fronts.is_some() {
            return Ok(self.node(node)?.row_of_bytes());
        }
        let size = size_of_name(node);
        let block = self.nodes[size].row(index_of_name(node))?;
        Ok(row_of_fused(block, self.layouts[size]))
    }

    /// The front of a node that exists; nothing if it is in its block.
    ///
    /// # Errors
    /// The damage, where it lies in a damaged part of a file.
    #[inline(always)]
    pub fn front(&self, node: u32) -> Read<&'a [u32]> {
        match &self.fronts {
            None => Ok(&[]),
            Some(fronts) => fronts[size_of_name(node)].row(index_of_name(node)),
        }
    }

    /// Asks for the block of a node that will be expanded.
    #[inline(always)]
    pub fn prefetch_block(&self, node: u32) {
        let size = size_of_name(node);
        self.nodes[size].prefetch_start(index_of_name(node), self.layouts[size].words());
    }

    /// Asks for the front of a node that will be estimated.
    #[inline(always)]
    pub fn prefetch_front(&self, node: u32) {
        if let Some(fronts) = &self.fronts {
            let size = size_of_name(node);
            fronts[size].prefetch_start(index_of_name(node), self.layouts[size].front());
        }
    }

    /// Asks for what the distance of a node's row takes.
    #[inline(always)]
    pub fn prefetch_row(&self, node: u32) {
        if self.fronts.is_some() {
            self.prefetch_front(node);
            self.prefetch_block(node);
        } else {
            let size = size_of_name(node);
            self.nodes[size].prefetch_start(index_of_name(node), self.layouts[size].front());
        }
    }
}
