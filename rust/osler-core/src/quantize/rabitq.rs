//! RaBitQ: 1 to 8 bits a value of the rotated residual, whose inner products are estimated without bias.
//!
//! Works on slices. Gao and Long, "RaBitQ: quantizing high-dimensional vectors with a theoretical error bound for
//! approximate nearest neighbor search" (arXiv 2405.12497); Gao et al., "Practical and asymptotically optimal quantization
//! of high-dimensional vectors in Euclidean space" (arXiv 2409.09913) for more than one bit.
//!
//! A value's number u of B bits stands for u - (2^B - 1) / 2. The numbers' highest bits lie together in the first plane:
//! they are the code of one bit, which blocks of 32 rows are scanned by.

use super::blocks::{LANES, Lookup, pack_nibbles, unpack_nibbles};
use super::rotation::{Rotation, STEP};
use super::space::{Floats, FloatsOut, QueryTerms, Rounded, RowTerms, Space};
use crate::metric::Metric;

/// Standard deviations that the error bound allows for (Section 3.2.2 of arXiv 2405.12497).
const DEVIATIONS: f32 = 1.9;

/// Best step of a uniform quantizer of 2^B levels for normal values, in standard deviations (Max, 1960).
const NORMAL_STEPS: [f32; 8] = [
    1.596, 0.9957, 0.5860, 0.3352, 0.1881, 0.1041, 0.0569, 0.0308,
];

/// Steps tried for a row, as multiples of the above: rows are not quite normal, least of all in few dimensions.
const STEP_FACTORS: [f32; 12] = [
    0.55, 0.65, 0.75, 0.82, 0.88, 0.94, 1.0, 1.06, 1.13, 1.22, 1.35, 1.5,
];

/// RaBitQ of one centre, rotation and number of bits.
#[derive(Clone, Debug)]
pub struct Rabitq {
    pub(super) space: Space,
    pub(super) rotation: Rotation,
    pub(super) bits: usize,
}

/// A query ready to score codes.
#[derive(Clone, Debug)]
pub struct Prepared {
    layout: Layout,
    terms: QueryTerms,
    rounded: Rounded,
    /// Half the sum of the query's values, by which numbers are centred: of the rounded ones, in steps.
    half_steps: f32,
    /// The same of the values themselves.
    half: f32,
    lookup: Lookup,
}

/// Where the parts of a code lie.
#[derive(Clone, Copy, Debug)]
struct Layout {
    metric: Metric,
    bits: usize,
    padded: usize,
}

/// What a row's estimates are scaled by.
#[derive(Clone, Copy, Debug, Default)]
struct Factors {
    /// Of the first plane alone.
    first: f32,
    /// Of all planes.
    all: f32,
    /// Error of an inner product by all planes with a residual of length 1, in one standard deviation.
    error: f32,
}

impl Rabitq {
    pub(super) fn new(space: Space, bits: usize, seed: u64) -> Self {
        let rotation = Rotation::new(space.dim(), seed);
        Rabitq {
            space,
            rotation,
            bits,
        }
    }

    pub(super) fn bytes(metric: Metric, bits: usize, dim: usize) -> usize {
        let padded = dim.next_multiple_of(STEP);
        let layout = Layout {
            metric,
            bits,
            padded,
        };
        layout.head() + bits * padded / 8
    }

    fn layout(&self) -> Layout {
        Layout {
            metric: self.space.metric,
            bits: self.bits,
            padded: self.rotation.padded(),
        }
    }

    pub(super) fn encode(&self, row: &[f32], code: &mut [u8]) {
        let residual = self.space.residual(row);
        let mut rotated = vec![0.0; self.rotation.padded()];
        self.rotation.apply(&residual, &mut rotated);
        let terms = self.space.row_terms(&residual);
        let layout = self.layout();
        let (floats, planes) = code.split_at_mut(layout.head());

        let (first, _) = scale_and_squares(&rotated, 0.0, 1, terms.norm);
        let per_step = best_scale(&rotated, self.bits, terms.norm);
        let (all, squares) = scale_and_squares(&rotated, per_step, self.bits, terms.norm);
        let factors = Factors {
            first,
            all,
            error: deviation(all, squares, terms.norm, layout.padded),
        };
        planes.fill(0);
        for (i, &value) in rotated.iter().enumerate() {
            let number = number(value, per_step, self.bits);
            for (bit, plane) in planes.chunks_exact_mut(layout.plane()).rev().enumerate() {
                plane[i / 8] |= ((number >> bit & 1) as u8) << (i % 8);
            }
        }
        let mut floats = FloatsOut(floats);
        terms.write(layout.metric, &mut floats);
        floats.put(factors.first);
        if self.bits > 1 {
            floats.put(factors.all);
            floats.put(factors.error);
        }
    }

    pub(super) fn prepare(&self, query: &[f32]) -> Prepared {
        let residual = self.space.residual(query);
        let mut rotated = vec![0.0; self.rotation.padded()];
        self.rotation.apply(&residual, &mut rotated);
        let rounded = Rounded::new(&rotated);
        let steps: i32 = rounded.steps.iter().map(|&step| i32::from(step)).sum();
        let mut tables = Vec::with_capacity(4 * rotated.len());
        for four in rotated.as_chunks::<4>().0 {
            let mut table = [0.0; 16];
            for pattern in 1..16_usize {
                let highest = pattern.ilog2() as usize;
                table[pattern] = table[pattern - (1 << highest)] + four[highest];
            }
            tables.extend(table);
        }
        Prepared {
            layout: self.layout(),
            terms: self.space.query_terms(query, &residual),
            half_steps: steps as f32 / 2.0,
            half: rotated.iter().sum::<f32>() / 2.0,
            rounded,
            lookup: Lookup::new(&tables),
        }
    }

    /// The rotated residual that the code stands for.
    pub(super) fn rotated(&self, code: &[u8]) -> Vec<f32> {
        let layout = self.layout();
        let (_, factors) = layout.floats(code);
        let planes = &code[layout.head()..];
        let middle = ((1 << self.bits) - 1) as f32 / 2.0;
        (0..layout.padded)
            .map(|i| {
                let number = planes
                    .chunks_exact(layout.plane())
                    .fold(0, |number, plane| {
                        2 * number + i32::from(plane[i / 8] >> (i % 8) & 1)
                    });
                (number as f32 - middle) * factors.all
            })
            .collect()
    }

    pub(super) fn between(&self, a: &[u8], b: &[u8]) -> f32 {
        let inner = osler_kernels::dot(&self.rotated(a), &self.rotated(b));
        let layout = self.layout();
        self.space
            .between(layout.floats(a).0, layout.floats(b).0, inner)
    }

    /// Rows' codes to a block: first planes, then a row's floats and other planes each.
    pub(super) fn pack(&self, codes: &[u8], block: &mut [u8]) {
        let layout = self.layout();
        let (nibbles, rests) = block.split_at_mut(LANES * layout.plane());
        let head = layout.head();
        pack_nibbles(codes, layout.bytes(), head..head + layout.plane(), nibbles);
        let rest_bytes = layout.bytes() - layout.plane();
        let rests = rests.chunks_exact_mut(rest_bytes);
        for (code, rest) in codes.chunks_exact(layout.bytes()).zip(rests) {
            rest[..head].copy_from_slice(&code[..head]);
            rest[head..].copy_from_slice(&code[head + layout.plane()..]);
        }
    }

    /// The code of one row of a block.
    pub(super) fn unpack(&self, block: &[u8], lane: usize, code: &mut [u8]) {
        let layout = self.layout();
        let (nibbles, rests) = block.split_at(LANES * layout.plane());
        let (head, rest_bytes) = (layout.head(), layout.bytes() - layout.plane());
        let rest = &rests[lane * rest_bytes..][..rest_bytes];
        code[..head].copy_from_slice(&rest[..head]);
        unpack_nibbles(nibbles, lane, &mut code[head..][..layout.plane()]);
        code[head + layout.plane()..].copy_from_slice(&rest[head..]);
    }
}

impl Prepared {
    /// The score by all planes.
    #[inline]
    pub(super) fn score(&self, code: &[u8]) -> f32 {
        let (row, factors) = self.layout.floats(code);
        let planes = &code[self.layout.head()..];
        let steps = osler_kernels::dot_planes(&self.rounded.steps, planes) as f32;
        let centred = steps - ((1 << self.layout.bits) - 1) as f32 * self.half_steps;
        self.terms
            .score(row, centred * (self.rounded.step * factors.all))
    }

    /// How far [`score`](Prepared::score) may be off.
    pub(super) fn error(&self, code: &[u8]) -> f32 {
        let (_, factors) = self.layout.floats(code);
        DEVIATIONS * factors.error * self.terms.length * self.terms.scale()
    }

    /// The scores of a block by first planes, and how far each may be off.
    pub(super) fn score_block(
        &self,
        block: &[u8],
        scores: &mut [f32; LANES],
        errors: &mut [f32; LANES],
    ) {
        let layout = self.layout;
        let (nibbles, rests) = block.split_at(LANES * layout.plane());
        let mut sums = [0.0; LANES];
        self.lookup.sums(nibbles, &mut sums);
        let squares = layout.padded as f32 / 4.0;
        let to_error = DEVIATIONS * self.terms.length * self.terms.scale();
        let rests = rests.chunks_exact(layout.bytes() - layout.plane());
        for (lane, rest) in rests.enumerate() {
            let mut floats = Floats(rest);
            let row = RowTerms::read(layout.metric, &mut floats);
            let first = floats.take();
            scores[lane] = self.terms.score(row, (sums[lane] - self.half) * first);
            errors[lane] = to_error * deviation(first, squares, row.norm, layout.padded);
        }
    }
}

impl Layout {
    /// Bytes of floats, which come first.
    fn head(self) -> usize {
        let factors = if self.bits == 1 { 1 } else { 3 };
        4 * (Space::row_floats(self.metric) + factors)
    }

    fn plane(self) -> usize {
        self.padded / 8
    }

    fn bytes(self) -> usize {
        self.head() + self.bits * self.plane()
    }

    #[inline]
    fn floats(self, code: &[u8]) -> (RowTerms, Factors) {
        let mut floats = Floats(code);
        let row = RowTerms::read(self.metric, &mut floats);
        let first = floats.take();
        let factors = if self.bits == 1 {
            let squares = self.padded as f32 / 4.0;
            Factors {
                first,
                all: first,
                error: deviation(first, squares, row.norm, self.padded),
            }
        } else {
            Factors {
                first,
                all: floats.take(),
                error: floats.take(),
            }
        };
        (row, factors)
    }
}

/// Standard deviation of an estimate for a residual of length 1: Theorem 3.2 of arXiv 2405.12497, where the cosine of
/// row and code is the row's length divided by the scaled code's.
fn deviation(scale: f32, squares: f32, norm: f32, dims: usize) -> f32 {
    let beyond = (scale * scale * squares - norm) / (dims.max(2) - 1) as f32;
    if beyond > 0.0 { beyond.sqrt() } else { 0.0 }
}

/// The number that stands for a value, which is first multiplied by `per_step`.
#[inline(always)]
fn number(value: f32, per_step: f32, bits: usize) -> i32 {
    if bits == 1 {
        return i32::from(value >= 0.0);
    }
    let levels = (1 << bits) as f32;
    // Negative values are cut off at 0 before they are truncated, which rounds them down.
    let shifted = (value * per_step + levels / 2.0).max(0.0);
    shifted.min(levels - 1.0) as i32
}

/// What the centred numbers are multiplied by so that a row's inner product with itself is exact, and their squares' sum.
fn scale_and_squares(rotated: &[f32], per_step: f32, bits: usize, norm: f32) -> (f32, f32) {
    let (along, squares) = along_and_squares(rotated, per_step, bits);
    let scale = if along > 0.0 { norm / along } else { 0.0 };
    (scale, squares)
}

fn along_and_squares(rotated: &[f32], per_step: f32, bits: usize) -> (f32, f32) {
    let middle = ((1 << bits) - 1) as f32 / 2.0;
    let (mut along, mut squares) = ([0.0_f32; 8], [0.0_f32; 8]);
    for eight in rotated.as_chunks::<8>().0 {
        for i in 0..8 {
            let centred = number(eight[i], per_step, bits) as f32 - middle;
            along[i] += eight[i] * centred;
            squares[i] += centred * centred;
        }
    }
    (along.iter().sum(), squares.iter().sum())
}

/// The step, inverted, whose numbers point most nearly where the row does.
fn best_scale(rotated: &[f32], bits: usize, norm: f32) -> f32 {
    let deviation = (norm / rotated.len() as f32).sqrt();
    if bits == 1 || deviation < f32::MIN_POSITIVE {
        return 0.0;
    }
    let normal = NORMAL_STEPS[bits - 1] * deviation;
    let mut best = (f32::NEG_INFINITY, 0.0);
    for factor in STEP_FACTORS {
        let per_step = 1.0 / (factor * normal);
        let (along, squares) = along_and_squares(rotated, per_step, bits);
        let cosine = along / squares.sqrt();
        if cosine > best.0 {
            best = (cosine, per_step);
        }
    }
    best.1
}
