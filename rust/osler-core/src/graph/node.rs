//! One node's block: its own 8-bit row, its neighbours' names, and their 1-bit codes relative to it.
//!
//! A hop of a walk reads one block, from its first byte to its last (SymphonyQG, Gou et al., SIGMOD 2025, arXiv
//! 2411.12229, section 3.2). Blocks come in two sizes, for 16 and for 32 neighbours; the name of a node says which.

use half::f16;
use osler_kernels::{PLANE, Terms};

use super::frame::Coded;
use super::query::Query;

/// Ends a list of neighbours, and fills empty places.
pub const NONE: u32 = u32::MAX;

/// Sizes of a block.
pub const SIZES: usize = 2;

/// Words between a block's row and its links: scale, squared length, row, number of real links, and what fills the cache
/// line, so that the row and they are read together and codes begin on a line.
const HEADER: usize = 16;

/// Neighbours that fit into a block of a size.
#[inline(always)]
pub const fn slots(size: usize) -> usize {
    PLANE << size
}

/// The name of block `index` of a size.
#[inline(always)]
pub const fn name(size: usize, index: usize) -> u32 {
    (index as u32) << 1 | size as u32
}

/// Size of the block that a name stands for.
#[inline(always)]
pub const fn size_of_name(node: u32) -> usize {
    (node & 1) as usize
}

/// Place of the block among those of its size.
#[inline(always)]
pub const fn index_of_name(node: u32) -> usize {
    (node >> 1) as usize
}

/// Where the parts of a block lie, in words of 32 bits.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    padded: usize,
    slots: usize,
}

impl Layout {
    /// The layout of blocks of a size over rows of `padded` dimensions.
    #[inline(always)]
    pub const fn new(padded: usize, size: usize) -> Self {
        Layout {
            padded,
            slots: slots(size),
        }
    }

    const fn header(self) -> usize {
        self.padded / 4
    }

    /// Words of the row and the header, which a block begins with.
    pub const fn links(self) -> usize {
        self.header() + HEADER
    }

    const fn centres(self) -> usize {
        self.links() + self.slots
    }

    const fn slopes(self) -> usize {
        self.centres() + self.slots / 2
    }

    const fn signs(self) -> usize {
        self.slopes() + self.slots / 2
    }

    /// Words of a block.
    pub const fn words(self) -> usize {
        self.signs() + self.slots * self.padded / 32
    }
}

/// A block to be read.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    words: &'a [u32],
    layout: Layout,
}

impl<'a> Node<'a> {
    /// A view of the words of a block.
    #[inline(always)]
    pub fn new(words: &'a [u32], layout: Layout) -> Self {
        assert!(
            words.len() == layout.words(),
            "a block has the length of its layout"
        );
        Node { words, layout }
    }

    #[inline(always)]
    fn part(&self, from: usize, to: usize) -> &'a [u32] {
        &self.words[from..to]
    }

    #[inline(always)]
    fn header(&self, word: usize) -> u32 {
        self.words[self.layout.header() + word]
    }

    /// Names of the neighbours, the real links first, then random ones; [`NONE`] in empty places.
    #[inline(always)]
    pub fn all(&self) -> &'a [u32] {
        self.part(self.layout.links(), self.layout.centres())
    }

    /// How many neighbours are real links.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.header(3) as usize
    }

    /// The real links. A damaged count yields none.
    pub fn links(&self) -> &'a [u32] {
        self.all().get(..self.count()).unwrap_or(&[])
    }

    /// The row whose node this is.
    #[inline(always)]
    pub fn row(&self) -> u32 {
        self.header(2)
    }

    /// The node's own row.
    #[inline(always)]
    pub fn coded(&self) -> Coded<'a> {
        Coded {
            codes: bytemuck::cast_slice(self.part(0, self.layout.header())),
            scale: f32::from_bits(self.header(0)),
            square: f32::from_bits(self.header(1)),
        }
    }

    /// Squared distance of the query to the node's row.
    #[inline(always)]
    pub fn distance(&self, query: &Query) -> f32 {
        let coded = self.coded();
        coded.distance_by(query, osler_kernels::dot_i16_i8(&query.wide, coded.codes))
    }

    /// Squared distances of the query to the rows of four nodes.
    #[inline(always)]
    pub fn distances(query: &Query, [a, b, c, d]: &[Node<'_>; 4]) -> [f32; 4] {
        let [a, b, c, d] = [a.coded(), b.coded(), c.coded(), d.coded()];
        let codes = [a.codes, b.codes, c.codes, d.codes];
        let dots = osler_kernels::dot4_i16_i8(&query.wide, codes);
        [
            a.distance_by(query, dots[0]),
            b.distance_by(query, dots[1]),
            c.distance_by(query, dots[2]),
            d.distance_by(query, dots[3]),
        ]
    }

    /// Inner product of the query with the node's row.
    pub fn product(&self, query: &Query) -> f32 {
        let coded = self.coded();
        let dot = osler_kernels::dot_i16_i8(&query.wide, coded.codes) as f32;
        coded.scale * query.wide_unit * dot
    }

    /// Estimates the squared distances of the query to all neighbours, given that to the node; the mask has those below
    /// `limit`.
    #[inline(always)]
    pub fn estimates(&self, query: &Query, distance: f32, limit: f32, out: &mut [f32; 32]) -> u32 {
        let layout = self.layout;
        let halves = |from, to| -> &[f16] { bytemuck::cast_slice(self.part(from, to)) };
        osler_kernels::neighbours(
            bytemuck::cast_slice(self.part(layout.signs(), layout.words())),
            &query.tables,
            halves(layout.centres(), layout.slopes()),
            halves(layout.slopes(), layout.signs()),
            Terms {
                scale: query.table_scale,
                base: distance,
                limit,
            },
            out,
        )
    }
}

impl Coded<'_> {
    /// Squared distance of the query, given the inner product of their integers.
    #[inline(always)]
    fn distance_by(&self, query: &Query, dot: i32) -> f32 {
        query.square + self.square - 2.0 * self.scale * query.wide_unit * dot as f32
    }
}

/// Vectors that a block is encoded with.
#[derive(Debug, Default)]
pub struct Encoder {
    owner: Vec<f32>,
    neighbour: Vec<f32>,
    signs: Vec<u8>,
}

impl Encoder {
    /// Writes the block of `row`: `coded` is its own row, `neighbours` are names and rows, of which the first `real` are
    /// links. There are at most as many as the layout has slots.
    pub fn encode<'a>(
        &mut self,
        out: &mut [u32],
        layout: Layout,
        row: u32,
        coded: Coded<'_>,
        real: usize,
        neighbours: impl Iterator<Item = (u32, Coded<'a>)>,
    ) {
        let Layout { padded, slots } = layout;
        self.owner.resize(padded, 0.0);
        self.neighbour.resize(padded, 0.0);
        self.signs.resize(padded / 8, 0);
        coded.decode(&mut self.owner);
        out.fill(0);
        bytemuck::cast_slice_mut::<u32, i8>(&mut out[..layout.header()])
            .copy_from_slice(coded.codes);
        out[layout.links()..layout.centres()].fill(NONE);
        // An empty place is infinitely far.
        halves(&mut out[layout.centres()..layout.slopes()]).fill(f16::INFINITY);
        for (i, (name, other)) in neighbours.take(slots).enumerate() {
            other.decode(&mut self.neighbour);
            let sums = osler_kernels::residual(&self.owner, &self.neighbour, &mut self.signs);
            let slope = if sums.magnitudes > 0.0 {
                2.0 * sums.squares / sums.magnitudes
            } else {
                0.0
            };
            let centre = sums.squares + slope * sums.along;
            out[layout.links() + i] = name;
            halves(&mut out[layout.centres()..layout.slopes()])[i] = finite(centre);
            halves(&mut out[layout.slopes()..layout.signs()])[i] = finite(slope);
            let codes: &mut [u8] =
                bytemuck::cast_slice_mut(&mut out[layout.signs()..layout.words()]);
            spread(&self.signs, &mut codes[i / PLANE * 2 * padded..], i % PLANE);
        }
        let header = &mut out[layout.header()..];
        header[0] = coded.scale.to_bits();
        header[1] = coded.square.to_bits();
        header[2] = row;
        header[3] = real.min(slots) as u32;
    }
}

fn halves(words: &mut [u32]) -> &mut [f16] {
    bytemuck::cast_slice_mut(words)
}

fn finite(x: f32) -> f16 {
    f16::from_f32(x.clamp(f16::MIN.to_f32(), f16::MAX.to_f32()))
}

/// Puts the signs of neighbour `i` into its place of a plane; see `osler_kernels::neighbours` for the order.
fn spread(signs: &[u8], plane: &mut [u8], i: usize) {
    let (front, back) = signs.split_at(signs.len() / 2);
    for (pair, (&low, &high)) in plane
        .chunks_exact_mut(2 * PLANE)
        .zip(front.iter().zip(back))
    {
        pair[i] = low & 15 | high << 4;
        pair[PLANE + i] = low >> 4 | high & 0xf0;
    }
}
