//! One node's block: its own row in small numbers, its neighbours' names, and 1-bit codes to estimate neighbours by.
//!
//! A fused block has its neighbours' codes, relative to its own row: a hop of a walk reads one block, from its first byte to
//! its last (SymphonyQG, Gou et al., SIGMOD 2025, arXiv 2411.12229, section 3.2). A single block is a third to a quarter
//! of that: it begins with the 1-bit code of its own row, and a hop reads the beginnings of the neighbours' blocks. Both come
//! in two sizes, for 16 and for 32 neighbours; the name of a node says which.

use half::f16;
use osler_kernels::{MOST_OF_FIVE, PLANE, Terms};

use super::frame::{Coded, Frame, REACH};
use super::query::Query;

/// Ends a list of neighbours, and fills empty places.
pub const NONE: u32 = u32::MAX;

/// Sizes of a block.
pub const SIZES: usize = 2;

/// Words of a header: scale, squared length, row, and the number of real links below what the row's signs are worth.
const HEADER: usize = 4;

/// Bits of the number of real links, below the higher bits of a float.
const COUNT: u32 = 0xffff;

/// Words between a fused block's row and its links: the header and what fills the cache line, so that the row and they are
/// read together and codes begin on a line.
const FUSED_HEADER: usize = 16;

/// What a block is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocks {
    /// The neighbours' 1-bit codes are in it; its own row has 8 bits a number.
    Fused,
    /// Its own 1-bit code is in it, and its row of 8 bits a number.
    Single8,
    /// Its own 1-bit code is in it, and the rest of its row of 5 bits a number.
    Single5,
}

impl Blocks {
    /// Steps that a row's numbers have from zero to the greatest magnitude.
    pub fn steps(self) -> f32 {
        match self {
            Blocks::Fused | Blocks::Single8 => f32::from(i8::MAX),
            Blocks::Single5 => f32::from(MOST_OF_FIVE) / 2.0,
        }
    }
}

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
    blocks: Blocks,
    padded: usize,
    slots: usize,
    header: usize,
    front: usize,
    body: usize,
}

impl Layout {
    /// The layout of blocks of a size over rows of `padded` dimensions.
    pub const fn new(blocks: Blocks, padded: usize, size: usize) -> Self {
        let slots = slots(size);
        let (header, front) = match blocks {
            Blocks::Fused => (padded / 4, padded / 4 + FUSED_HEADER),
            Blocks::Single8 | Blocks::Single5 => (padded / 32, padded / 32 + HEADER),
        };
        let rest = match blocks {
            Blocks::Fused => slots + slots * padded / 32,
            Blocks::Single8 => padded / 4,
            Blocks::Single5 => padded / 8,
        };
        Layout {
            blocks,
            padded,
            slots,
            header,
            front,
            body: slots + rest,
        }
    }

    /// Whether neighbours' codes are in the block.
    #[inline(always)]
    pub const fn is_fused(self) -> bool {
        matches!(self.blocks, Blocks::Fused)
    }

    /// Words of the front, which is read when the node is met: the row of a fused block or the signs of a single one, then
    /// the header.
    #[inline(always)]
    pub const fn front(self) -> usize {
        self.front
    }

    #[inline(always)]
    const fn slopes(self) -> usize {
        self.slots + self.slots / 2
    }

    #[inline(always)]
    const fn signs(self) -> usize {
        self.slopes() + self.slots / 2
    }

    /// Words of the rest, which is read when the node is expanded: the links, then the neighbours' codes or the row.
    #[inline(always)]
    pub const fn body(self) -> usize {
        self.body
    }

    /// Words that the distance of a row takes, without the rest of the line that they begin with.
    pub const fn row(self) -> usize {
        match self.blocks {
            Blocks::Fused => self.padded / 4,
            Blocks::Single8 => self.front + self.padded / 4,
            Blocks::Single5 => self.front + self.padded / 8,
        }
    }

    /// Words of a block as it lies in the table of nodes: the front of a single one lies in a table of fronts.
    #[inline(always)]
    pub const fn words(self) -> usize {
        if self.is_fused() {
            self.front + self.body
        } else {
            self.body
        }
    }
}

/// A block to be read.
#[derive(Clone, Copy)]
pub struct Node<'a> {
    front: &'a [u32],
    body: &'a [u32],
    layout: Layout,
}

impl<'a> Node<'a> {
    /// A view of a fused block.
    #[inline(always)]
    pub fn new(words: &'a [u32], layout: Layout) -> Self {
        let (front, body) = words.split_at(layout.front());
        Node::of(front, body, layout)
    }

    /// A view of a front and a body.
    #[inline(always)]
    pub fn of(front: &'a [u32], body: &'a [u32], layout: Layout) -> Self {
        assert!(
            front.len() == layout.front() && body.len() == layout.body(),
            "a block has the length of its layout"
        );
        Node {
            front,
            body,
            layout,
        }
    }

    #[inline(always)]
    fn header(&self, word: usize) -> u32 {
        self.front[self.layout.header + word]
    }

    /// Names of the neighbours, the real links first, then random ones; [`NONE`] in empty places.
    #[inline(always)]
    pub fn all(&self) -> &'a [u32] {
        &self.body[..self.layout.slots]
    }

    /// How many neighbours are real links.
    #[inline(always)]
    pub fn count(&self) -> usize {
        (self.header(3) & COUNT) as usize
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

    /// The node's own row; rows of five bits are unpacked into `space`.
    #[inline(always)]
    pub fn coded<'b>(&self, space: &'b mut Vec<i8>) -> Coded<'b>
    where
        'a: 'b,
    {
        let codes = if self.layout.blocks == Blocks::Single5 {
            space.resize(self.layout.padded, 0);
            osler_kernels::unpack_fives(self.own_signs(), self.rest(), space);
            space
        } else {
            self.bytes()
        };
        Coded {
            codes,
            scale: self.scale(),
            square: self.square(),
        }
    }

    /// What one of the row's numbers is worth.
    #[inline(always)]
    pub fn scale(&self) -> f32 {
        f32::from_bits(self.header(0))
    }

    /// Squared length of the row.
    #[inline(always)]
    pub fn square(&self) -> f32 {
        f32::from_bits(self.header(1))
    }

    /// What the signs' inner product with a query is worth; nothing in a fused block.
    pub fn worth(&self) -> f32 {
        f32::from_bits(self.header(3) & !COUNT)
    }

    /// Whether the row's numbers are such as a row within the frame's reach has, and no product with them overflows.
    pub fn is_within_reach(&self) -> bool {
        // Rows of files made before reach was kept may lie farther; this far, sums of squares still fit.
        let most = 4e3 * REACH as f32;
        self.square() <= most * most
            && self.square() >= 0.0
            && self.scale().abs() <= most
            && self.worth().abs() <= most
    }

    /// The row's numbers, of 8 bits.
    #[inline(always)]
    fn bytes(&self) -> &'a [i8] {
        let words = if self.layout.is_fused() {
            &self.front[..self.layout.header]
        } else {
            &self.body[self.layout.slots..]
        };
        bytemuck::must_cast_slice(words)
    }

    /// The row's signs, of a single block.
    #[inline(always)]
    fn own_signs(&self) -> &'a [u8] {
        bytemuck::must_cast_slice(&self.front[..self.layout.header])
    }

    /// Four bits of each number of a row of five.
    #[inline(always)]
    fn rest(&self) -> &'a [u8] {
        bytemuck::must_cast_slice(&self.body[self.layout.slots..])
    }

    /// Squared distance of the query to the node's row.
    #[inline(always)]
    pub fn distance(&self, query: &Query) -> f32 {
        query.square + self.square() - 2.0 * self.product(query)
    }

    /// The node's own row of 8 bits a number.
    #[inline(always)]
    pub fn row_of_bytes(&self) -> Coded<'a> {
        Coded {
            codes: self.bytes(),
            scale: self.scale(),
            square: self.square(),
        }
    }

    /// Inner product of the query with the node's row.
    #[inline(always)]
    pub fn product(&self, query: &Query) -> f32 {
        if self.layout.blocks == Blocks::Single5 {
            let dot = osler_kernels::dot_fives(&query.small, self.own_signs(), self.rest());
            let dot = 2 * dot - i32::from(MOST_OF_FIVE) * query.small_sum;
            self.scale() * query.small_unit * dot as f32
        } else {
            let dot = osler_kernels::dot_i16_i8(&query.wide, self.bytes());
            self.scale() * query.wide_unit * dot as f32
        }
    }

    /// Estimates the squared distances of the query to all neighbours, given that to the node; the mask has those below
    /// `limit`.
    #[inline(always)]
    pub fn estimates(&self, query: &Query, distance: f32, limit: f32, out: &mut [f32; 32]) -> u32 {
        let layout = self.layout;
        let halves = |from, to| -> &[f16] { bytemuck::must_cast_slice(&self.body[from..to]) };
        osler_kernels::neighbours(
            bytemuck::must_cast_slice(&self.body[layout.signs()..]),
            &query.tables,
            halves(layout.slots, layout.slopes()),
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

/// The row of a fused block, the same as [`Node::row_of_bytes`].
#[inline(always)]
pub fn row_of_fused(block: &[u32], layout: Layout) -> Coded<'_> {
    let (codes, header) = block[..layout.front()].split_at(layout.header);
    Coded {
        codes: bytemuck::must_cast_slice(codes),
        scale: f32::from_bits(header[0]),
        square: f32::from_bits(header[1]),
    }
}

/// Squared distances of the query to four rows of 8 bits a number.
#[inline(always)]
pub fn distances(query: &Query, rows: [Coded<'_>; 4]) -> [f32; 4] {
    let dots = osler_kernels::dot4_i16_i8(&query.wide, rows.map(|row| row.codes));
    let mut distances = [0.0; 4];
    for i in 0..4 {
        let product = rows[i].scale * query.wide_unit * dots[i] as f32;
        distances[i] = query.square + rows[i].square - 2.0 * product;
    }
    distances
}

/// Estimates the squared distances of the query to the rows of single blocks by their 1-bit codes, which their fronts have
/// (RaBitQ, equation 20: the signs' inner product with the query, divided by that with the row).
#[inline(always)]
pub fn estimates(fronts: [&[u32]; 4], query: &Query) -> [f32; 4] {
    let parts = fronts.map(|front| front.split_at(front.len() - HEADER));
    let signs = parts.map(|(signs, _)| bytemuck::must_cast_slice(signs));
    let along = osler_kernels::dot4_signs(&query.small, signs);
    let mut estimates = [0.0; 4];
    for i in 0..4 {
        let header = parts[i].1;
        let worth = f32::from_bits(header[3] & !COUNT);
        let product = worth * query.small_unit * (2 * along[i] - query.small_sum) as f32;
        estimates[i] = query.square + f32::from_bits(header[1]) - 2.0 * product;
    }
    estimates
}

/// Writes blocks; holds vectors between calls.
#[derive(Debug, Default)]
pub struct Encoder {
    owner: Vec<f32>,
    neighbour: Vec<f32>,
    codes: Vec<i8>,
    signs: Vec<u8>,
}

impl Encoder {
    /// Writes the block of `row`, front and body: `coded` is its own row, `names` are its neighbours, of which the first `real` are links.
    /// There are at most as many as the layout has slots. A fused block needs [`Encoder::neighbour`] for each of them then.
    pub fn begin(
        &mut self,
        out: &mut [u32],
        layout: Layout,
        row: u32,
        coded: Coded<'_>,
        real: usize,
        names: &[u32],
    ) {
        let Layout { padded, slots, .. } = layout;
        out.fill(0);
        let header = layout.header;
        let mut worth = 0.0;
        let (mut codes, mut scale) = (coded.codes, coded.scale);
        if layout.blocks == Blocks::Single5 {
            scale = self.round_to_fives(coded);
            codes = &self.codes;
        }
        match layout.blocks {
            Blocks::Fused => {
                self.owner.resize(padded, 0.0);
                self.neighbour.resize(padded, 0.0);
                self.signs.resize(padded / 8, 0);
                coded.decode(&mut self.owner);
                bytemuck::cast_slice_mut::<u32, i8>(&mut out[..header]).copy_from_slice(codes);
                // An empty place is infinitely far.
                let (_, body) = out.split_at_mut(layout.front());
                halves(&mut body[layout.slots..layout.slopes()]).fill(f16::INFINITY);
            }
            Blocks::Single8 => {
                osler_kernels::pack_signs(codes, bytemuck::cast_slice_mut(&mut out[..header]));
                let (_, own) = out.split_at_mut(layout.front() + slots);
                bytemuck::cast_slice_mut::<u32, i8>(own).copy_from_slice(codes);
            }
            Blocks::Single5 => {
                let (front, own) = out.split_at_mut(layout.front() + slots);
                osler_kernels::pack_fives(
                    codes,
                    bytemuck::cast_slice_mut(&mut front[..header]),
                    bytemuck::cast_slice_mut(own),
                );
            }
        }
        if layout.blocks != Blocks::Fused {
            let magnitudes: i32 = codes.iter().map(|&x| i32::from(x).abs()).sum();
            if magnitudes > 0 && scale > 0.0 {
                worth = coded.square / (scale * magnitudes as f32);
            }
        }
        let links = &mut out[layout.front()..][..slots];
        links.fill(NONE);
        for (link, &name) in links.iter_mut().zip(names) {
            *link = name;
        }
        let out = &mut out[header..];
        out[0] = scale.to_bits();
        out[1] = coded.square.to_bits();
        out[2] = row;
        out[3] = real.min(slots) as u32 | (worth.to_bits() & !COUNT);
    }

    /// Writes neighbour `i`, whose row is `other`, into the fused block that was begun last.
    pub fn neighbour(&mut self, out: &mut [u32], layout: Layout, i: usize, other: Coded<'_>) {
        other.decode(&mut self.neighbour);
        let sums = osler_kernels::residual(&self.owner, &self.neighbour, &mut self.signs);
        let slope = if sums.magnitudes > 0.0 {
            2.0 * sums.squares / sums.magnitudes
        } else {
            0.0
        };
        let centre = sums.squares + slope * sums.along;
        let (_, body) = out.split_at_mut(layout.front());
        halves(&mut body[layout.slots..layout.slopes()])[i] = finite(centre);
        halves(&mut body[layout.slopes()..layout.signs()])[i] = finite(slope);
        let codes: &mut [u8] = bytemuck::cast_slice_mut(&mut body[layout.signs()..]);
        let plane = &mut codes[i / PLANE * 2 * layout.padded..];
        spread(&self.signs, plane, i % PLANE);
    }

    /// Rounds a row to five bits and returns its scale. A row that is rounded already stays as it is; one of eight bits has
    /// a number of the greatest magnitude, so the two are told apart.
    fn round_to_fives(&mut self, coded: Coded<'_>) -> f32 {
        self.codes.clear();
        self.codes.extend_from_slice(coded.codes);
        let most = coded
            .codes
            .iter()
            .fold(0, |most, x| most.max(x.unsigned_abs()));
        if most == MOST_OF_FIVE.unsigned_abs() {
            return coded.scale;
        }
        self.owner.resize(coded.codes.len(), 0.0);
        coded.decode(&mut self.owner);
        Frame::encode_fives(&self.owner, coded.square, &mut self.codes)
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
