//! Product quantization: parts of a vector, each replaced by the number of its nearest centroid.
//!
//! Works on slices; trains on the threads that it is called on. Jegou, Douze and Schmid (2011); the rotation before it is
//! OPQ's, Ge, He, Ke and Sun, "Optimized product quantization for approximate nearest neighbor search" (2013).

use rayon::prelude::*;

use super::blocks::{LANES, Lookup, pack_nibbles, unpack_nibbles};
use super::kmeans::{Columns, kmeans};
use super::opq;
use super::space::Space;
use crate::metric::Metric;
use crate::random::Stream;

/// Rows that codebooks are trained on at most, for each of their centroids.
const TRAINING_ROWS: usize = 64;

/// Rows that the rotation is trained on at least, if there are so many.
const ROTATION_ROWS: usize = 16_384;

/// Lloyd's rounds for a codebook.
const ROUNDS: usize = 12;

/// Number of the random stream, of which no other part of the engine has the same.
const PURPOSE: u64 = 12;

/// Rotation and codebooks.
#[derive(Clone, Debug)]
pub struct Product {
    pub(super) space: Space,
    bits: usize,
    /// For each value of a rotated residual, its direction among residuals.
    rotation: Vec<f32>,
    books: Vec<Columns>,
    /// Values of a part.
    part: usize,
}

/// A query ready to score codes.
#[derive(Clone, Debug)]
pub struct Prepared {
    bits: usize,
    /// For each part, what each centroid adds to the score.
    tables: Vec<f32>,
    constant: f32,
    factor: f32,
    lookup: Option<Lookup>,
}

impl Product {
    pub(super) fn train(
        space: Space,
        parts: usize,
        bits: usize,
        rows: &[f32],
        seed: u64,
        optimize: bool,
    ) -> Self {
        let dim = space.dim();
        let part = dim.div_ceil(parts);
        let wanted = (TRAINING_ROWS << bits).max(ROTATION_ROWS);
        let residuals = sample(&space, rows, wanted, seed);
        let rotation = if optimize {
            opq::allocate(&residuals, dim, parts)
        } else {
            opq::identity(dim, parts * part)
        };
        let rotated = opq::rotate(&residuals, dim, &rotation);
        let books = (0..parts)
            .into_par_iter()
            .map(|m| {
                let own: Vec<f32> = rotated
                    .chunks_exact(parts * part)
                    .flat_map(|row| &row[m * part..][..part])
                    .copied()
                    .collect();
                Columns::new(&kmeans(&own, part, 1 << bits, ROUNDS, seed, m as u64), part)
            })
            .collect();
        Product {
            space,
            bits,
            rotation,
            books,
            part,
        }
    }

    /// From what [`floats`](Product::floats) gave.
    pub(super) fn from_floats(space: Space, parts: usize, bits: usize, floats: &[f32]) -> Self {
        let part = space.dim().div_ceil(parts);
        let (rotation, books) = floats.split_at(space.dim() * parts * part);
        Product {
            space,
            bits,
            rotation: rotation.to_vec(),
            books: books
                .chunks_exact(part << bits)
                .map(|book| Columns::new(book, part))
                .collect(),
            part,
        }
    }

    /// Number of floats that [`floats`](Product::floats) gives, `None` where it cannot be counted.
    pub(super) fn float_count(dim: usize, parts: usize, bits: usize) -> Option<usize> {
        let width = dim.div_ceil(parts).checked_mul(parts)?;
        dim.checked_add(1 << bits)?.checked_mul(width)
    }

    /// Rotation, then centroids one after another.
    pub(super) fn floats(&self) -> Vec<f32> {
        let mut floats = self.rotation.clone();
        for book in &self.books {
            for j in 0..book.count() {
                floats.extend(book.centroid(j));
            }
        }
        floats
    }

    pub(super) fn bytes(parts: usize, bits: usize) -> usize {
        (parts * bits).div_ceil(8)
    }

    fn rotate(&self, residual: &[f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.books.len() * self.part];
        osler_kernels::dot_tile(residual, &self.rotation, residual.len(), &mut out);
        out
    }

    pub(super) fn encode(&self, row: &[f32], code: &mut [u8]) {
        let rotated = self.rotate(&self.space.residual(row));
        let mut nearness = vec![0.0; 1 << self.bits];
        code.fill(0);
        let parts = rotated.chunks_exact(self.part).zip(&self.books);
        for (m, (part, book)) in parts.enumerate() {
            let number = book.nearest(part, &mut nearness) as u8;
            if self.bits == 8 {
                code[m] = number;
            } else {
                code[m / 2] |= number << (4 * (m % 2));
            }
        }
    }

    pub(super) fn prepare(&self, query: &[f32]) -> Prepared {
        let metric = self.space.metric;
        // Under an inner product the query's own place does not matter, only its direction.
        let rotated = match metric {
            Metric::Dot => self.rotate(query),
            Metric::Cosine | Metric::L2 => self.rotate(&self.space.residual(query)),
        };
        let entries = 1 << self.bits;
        let mut tables = vec![0.0; self.books.len() * entries];
        let parts = rotated.chunks_exact(self.part).zip(&self.books);
        for ((part, book), table) in parts.zip(tables.chunks_exact_mut(entries)) {
            match metric {
                Metric::Dot => book.products(part, table),
                Metric::Cosine | Metric::L2 => book.nearness(part, table),
            }
        }
        let half = osler_kernels::sum_of_squares(&rotated) / 2.0;
        let (constant, factor) = match metric {
            Metric::Cosine => (1.0 - half, 1.0),
            Metric::Dot => (osler_kernels::dot(query, &self.space.centre), 1.0),
            Metric::L2 => (-2.0 * half, 2.0),
        };
        Prepared {
            bits: self.bits,
            lookup: (self.bits == 4).then(|| Lookup::new(&padded(&tables))),
            tables,
            constant,
            factor,
        }
    }

    /// The rotated residual that the code stands for.
    pub(super) fn rotated(&self, code: &[u8]) -> Vec<f32> {
        self.books
            .iter()
            .enumerate()
            .flat_map(|(m, book)| book.centroid(number(code, m, self.bits)))
            .collect()
    }

    /// The residual of a rotated one.
    pub(super) fn turned_back(&self, rotated: &[f32]) -> Vec<f32> {
        let zeros = vec![0.0; self.space.dim()];
        let mut out = zeros.clone();
        osler_kernels::columns(rotated, &self.rotation, &zeros, &mut out);
        out
    }

    pub(super) fn between(&self, a: &[u8], b: &[u8]) -> f32 {
        let (a, b) = (self.rotated(a), self.rotated(b));
        match self.space.metric {
            Metric::Cosine => 1.0 - osler_kernels::l2(&a, &b) / 2.0,
            Metric::L2 => -osler_kernels::l2(&a, &b),
            Metric::Dot => {
                let terms = |rotated: &[f32]| self.space.row_terms(&self.turned_back(rotated));
                let inner = osler_kernels::dot(&a, &b);
                self.space.between(terms(&a), terms(&b), inner)
            }
        }
    }

    /// Rows' codes to a block: half-bytes side by side, or whole codes one after another.
    pub(super) fn pack(&self, codes: &[u8], block: &mut [u8]) {
        let bytes = Product::bytes(self.books.len(), self.bits);
        if self.bits == 4 {
            pack_nibbles(codes, bytes, 0..bytes, block);
        } else {
            block[..codes.len()].copy_from_slice(codes);
        }
    }

    /// The code of one row of a block.
    pub(super) fn unpack(&self, block: &[u8], lane: usize, code: &mut [u8]) {
        if self.bits == 4 {
            unpack_nibbles(block, lane, code);
        } else {
            code.copy_from_slice(&block[lane * code.len()..][..code.len()]);
        }
    }
}

impl Prepared {
    /// The score of one code.
    #[inline]
    pub(super) fn score(&self, code: &[u8]) -> f32 {
        let sum = if self.bits == 8 {
            sum_of_bytes(code, self.tables.as_chunks().0)
        } else {
            sum_of_nibbles(code, self.tables.as_chunks().0)
        };
        self.constant + self.factor * sum
    }

    /// The scores of a block.
    pub(super) fn score_block(&self, block: &[u8], scores: &mut [f32; LANES]) {
        match &self.lookup {
            Some(lookup) => {
                lookup.sums(block, scores);
                for score in scores {
                    *score = self.constant + self.factor * *score;
                }
            }
            None => {
                for (code, score) in block.chunks_exact(block.len() / LANES).zip(scores) {
                    *score = self.score(code);
                }
            }
        }
    }
}

/// Four sums at once, because each waits for its last addition.
#[inline]
fn sum_of_bytes(code: &[u8], tables: &[[f32; 256]]) -> f32 {
    let mut sums = [0.0_f32; 4];
    let (code_fours, code_rest) = code.as_chunks::<4>();
    let (table_fours, table_rest) = tables.as_chunks::<4>();
    for (code, table) in code_fours.iter().zip(table_fours) {
        for i in 0..4 {
            sums[i] += table[i][usize::from(code[i])];
        }
    }
    for (&byte, table) in code_rest.iter().zip(table_rest) {
        sums[0] += table[usize::from(byte)];
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// The same for tables of half-bytes; the last may lack its partner.
#[inline]
fn sum_of_nibbles(code: &[u8], tables: &[[f32; 16]]) -> f32 {
    let mut sums = [0.0_f32; 4];
    let code_pairs = code.as_chunks::<2>().0;
    let (table_fours, table_rest) = tables.as_chunks::<4>();
    for (code, table) in code_pairs.iter().zip(table_fours) {
        for i in 0..4 {
            sums[i] += table[i][usize::from(code[i / 2] >> (4 * (i % 2)) & 15)];
        }
    }
    let rest = &code[2 * table_fours.len()..];
    for (m, table) in table_rest.iter().enumerate() {
        sums[m] += table[number(rest, m, 4)];
    }
    (sums[0] + sums[1]) + (sums[2] + sums[3])
}

/// The number of part `m`.
#[inline(always)]
fn number(code: &[u8], m: usize, bits: usize) -> usize {
    if bits == 8 {
        usize::from(code[m])
    } else {
        usize::from(code[m / 2] >> (4 * (m % 2)) & 15)
    }
}

/// Tables of 16 with an empty one behind an odd number: rows end with a whole byte.
fn padded(tables: &[f32]) -> Vec<f32> {
    let mut tables = tables.to_vec();
    tables.resize(tables.len().next_multiple_of(32), 0.0);
    tables
}

/// Residuals of at most `wanted` rows, in row order.
fn sample(space: &Space, rows: &[f32], wanted: usize, seed: u64) -> Vec<f32> {
    let dim = space.dim();
    let count = rows.len() / dim;
    let mut chosen: Vec<usize> = (0..count).collect();
    if wanted < count {
        Stream::new(seed, PURPOSE, 0).shuffle(&mut chosen);
        chosen.truncate(wanted);
        chosen.sort_unstable();
    }
    chosen
        .iter()
        .flat_map(|&row| space.residual(&rows[row * dim..][..dim]))
        .collect()
}
