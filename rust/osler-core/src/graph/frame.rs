//! The space that a graph is built in: vectors are centred, brought to unit spread, turned at random and padded.
//!
//! Distances keep their order, whatever the metric: under cosine and under the lifted inner product all rows have one
//! length. Reads vectors through a closure; the rotation spreads each row's energy over all dimensions, which 8-bit and
//! 1-bit codes need (RaBitQ, Gao and Long, arXiv 2405.12497, section 3.1).

use osler_kernels::MOST_OF_FIVE;

use super::node::Blocks;
use crate::error::Read;
use crate::quantize::rotation::Rotation;

/// Rows that centre and spread are taken from.
const SAMPLE: usize = 20_000;

/// How far from the centre a row or query of the frame may lie, in units of spread: products and squares of such, and sums
/// of them, stay well within f32.
pub const REACH: f64 = 1e15;

/// Purpose of the rotation's random stream.
const ROTATION: u64 = 4;

/// Greatest magnitude of an 8-bit number in a row.
const MOST_BYTE: f32 = 127.0;

/// How vectors become rows of the graph.
#[derive(Debug)]
pub struct Frame {
    blocks: Blocks,
    rotation: Rotation,
    centre: Vec<f32>,
    per_unit: f32,
}

/// A row of the graph: 8-bit numbers, what a unit of them is worth, and the squared length of the row.
#[derive(Clone, Copy, Debug)]
pub struct Coded<'a> {
    /// One number a padded dimension.
    pub codes: &'a [i8],
    /// Worth of one unit, so that inner products with the row itself come out right on average.
    pub scale: f32,
    /// Squared length before rounding.
    pub square: f32,
}

impl Coded<'_> {
    /// Squared distance to another row.
    #[inline(always)]
    pub fn distance(&self, other: &Coded<'_>) -> f32 {
        let dot = osler_kernels::dot_i8(self.codes, other.codes) as f32;
        (self.square + other.square - 2.0 * self.scale * other.scale * dot).max(0.0)
    }

    /// The row as floats.
    pub fn decode(&self, out: &mut [f32]) {
        for (out, &code) in out.iter_mut().zip(self.codes) {
            *out = self.scale * f32::from(code);
        }
    }
}

/// Coded rows beside each other, while a graph is made from them.
#[derive(Debug, Default)]
pub struct CodedRows {
    /// Padded dimensions.
    pub padded: usize,
    /// Codes, row after row.
    pub codes: Vec<i8>,
    /// The scale of each row.
    pub scales: Vec<f32>,
    /// The squared length of each row.
    pub squares: Vec<f32>,
}

impl CodedRows {
    /// Room for `rows` rows, all zero.
    pub fn zeroed(padded: usize, rows: usize) -> Self {
        CodedRows {
            padded,
            codes: vec![0; padded * rows],
            scales: vec![0.0; rows],
            squares: vec![0.0; rows],
        }
    }

    /// One row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Coded<'_> {
        Coded {
            codes: &self.codes[row * self.padded..][..self.padded],
            scale: self.scales[row],
            square: self.squares[row],
        }
    }
}

impl Frame {
    /// The frame of `rows` vectors of `dim` numbers, which `read` writes out one at a time.
    ///
    /// # Errors
    /// What `read` reports.
    pub fn fit(
        rows: usize,
        dim: usize,
        blocks: Blocks,
        seed: u64,
        mut read: impl FnMut(u32, &mut [f32]) -> Read<()>,
    ) -> Read<Self> {
        let every = rows.div_ceil(SAMPLE).max(1);
        let (mut sums, mut squares, mut count) = (vec![0.0f64; dim], 0.0f64, 0.0f64);
        let mut vector = vec![0.0; dim];
        for row in (0..rows as u32).step_by(every) {
            read(row, &mut vector)?;
            for (sum, &x) in sums.iter_mut().zip(&vector) {
                *sum += f64::from(x);
            }
            squares += f64::from(osler_kernels::sum_of_squares(&vector));
            count += 1.0;
        }
        let count = count.max(1.0);
        let centre: Vec<f32> = sums.iter().map(|sum| (sum / count) as f32).collect();
        let spread = squares / count - f64::from(osler_kernels::sum_of_squares(&centre));
        Ok(Self::new(centre, Self::unit(spread), blocks, seed))
    }

    /// What numbers are multiplied with, so that the mean squared distance from the centre becomes 1.
    fn unit(spread: f64) -> f32 {
        let unit = (1.0 / spread.max(0.0).sqrt()) as f32;
        // Equal rows have no spread; rows near either end of what f32 holds keep their size.
        if unit.is_normal() && unit < 1e30 {
            unit
        } else {
            1.0
        }
    }

    /// How far from the centre a vector lies, in units of spread.
    pub fn distance(&self, vector: &[f32]) -> f64 {
        let apart = vector
            .iter()
            .zip(&self.centre)
            .map(|(&x, &centre)| f64::from(x) - f64::from(centre));
        apart.map(|x| x * x).sum::<f64>().sqrt() * f64::from(self.per_unit)
    }

    /// Whether a vector is within reach.
    pub fn reaches(&self, vector: &[f32]) -> bool {
        self.distance(vector) <= REACH
    }

    /// The same frame, its numbers multiplied with less where what lies `distance` from the centre would be out of reach.
    pub fn reaching(self, distance: f64) -> Self {
        if distance <= REACH {
            return self;
        }
        let per_unit = (f64::from(self.per_unit) * (0.5 * REACH / distance)) as f32;
        Frame { per_unit, ..self }
    }

    /// Whether centre and unit are such as vectors that can be scored have.
    pub fn is_sound(&self) -> bool {
        let length: f64 = self
            .centre
            .iter()
            .map(|&x| f64::from(x) * f64::from(x))
            .sum();
        length <= f64::from(f32::MAX) / 4.0 && (1e-20..=1e30).contains(&self.per_unit)
    }

    /// A frame of known centre and unit.
    pub fn new(centre: Vec<f32>, per_unit: f32, blocks: Blocks, seed: u64) -> Self {
        Frame {
            blocks,
            rotation: Rotation::new(
                centre.len(),
                crate::random::Stream::new(seed, ROTATION, 0).next_u64(),
            ),
            centre,
            per_unit,
        }
    }

    /// What rows are kept as.
    #[inline(always)]
    pub fn blocks(&self) -> Blocks {
        self.blocks
    }

    /// The centre.
    pub fn centre(&self) -> &[f32] {
        &self.centre
    }

    /// What numbers are multiplied with.
    pub fn per_unit(&self) -> f32 {
        self.per_unit
    }

    /// Numbers of a vector before it is turned.
    pub fn dim(&self) -> usize {
        self.centre.len()
    }

    /// Numbers of a turned vector, a multiple of [`osler_kernels::CODE_DIMS`].
    pub fn padded(&self) -> usize {
        self.rotation.padded()
    }

    /// Centres `vector` in place and turns it into `out`, of padded length.
    pub fn turn(&self, vector: &mut [f32], out: &mut [f32]) {
        for (x, &centre) in vector.iter_mut().zip(&self.centre) {
            *x = (*x - centre) * self.per_unit;
        }
        self.rotation.apply(vector, out);
    }

    /// Turns `vector` as [`Frame::turn`] does, shortened so that it is within reach, and returns how many times longer it
    /// is. `scale` is what it is multiplied with first.
    pub fn turn_within_reach(&self, vector: &mut [f32], scale: f64, out: &mut [f32]) -> f64 {
        let apart: Vec<f64> = vector
            .iter()
            .zip(&self.centre)
            .map(|(&x, &centre)| {
                (f64::from(x) * scale - f64::from(centre)) * f64::from(self.per_unit)
            })
            .collect();
        let length = apart.iter().map(|x| x * x).sum::<f64>().sqrt();
        let times = (length / REACH).max(1.0);
        for (x, apart) in vector.iter_mut().zip(&apart) {
            *x = (apart / times) as f32;
        }
        self.rotation.apply(vector, out);
        times
    }

    /// Writes the vector of which `turned` is the turned form; `turned` is used as working space.
    pub fn turn_back(&self, turned: &mut [f32], out: &mut [f32]) {
        self.rotation.invert(turned, out);
        for (x, &centre) in out.iter_mut().zip(&self.centre) {
            *x = *x / self.per_unit + centre;
        }
    }

    /// Rounds a turned vector to 8-bit numbers; returns scale and squared length.
    pub fn encode(turned: &[f32], codes: &mut [i8]) -> [f32; 2] {
        let square = osler_kernels::sum_of_squares(turned);
        let most = turned.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let per_unit = if most > 0.0 { MOST_BYTE / most } else { 0.0 };
        let mut along = 0.0f64;
        for (x, code) in turned.iter().zip(codes.iter_mut()) {
            let rounded = nearest(x * per_unit);
            *code = rounded as i8;
            along += f64::from(*x) * f64::from(rounded);
        }
        let scale = if along > 0.0 {
            (f64::from(square) / along) as f32
        } else {
            0.0
        };
        [scale, square]
    }

    /// Rounds a row of squared length `square` to odd numbers of five bits; returns the scale.
    pub fn encode_fives(turned: &[f32], square: f32, codes: &mut [i8]) -> f32 {
        let most = turned.iter().fold(0.0f32, |most, x| most.max(x.abs()));
        let per_unit = if most > 0.0 {
            f32::from(MOST_OF_FIVE) / most
        } else {
            0.0
        };
        let mut along = 0.0f64;
        for (x, code) in turned.iter().zip(codes.iter_mut()) {
            let level = nearest((x * per_unit + f32::from(MOST_OF_FIVE)) / 2.0);
            let rounded = 2.0 * level - f32::from(MOST_OF_FIVE);
            *code = rounded as i8;
            along += f64::from(*x) * f64::from(rounded);
        }
        if along > 0.0 {
            (f64::from(square) / along) as f32
        } else {
            0.0
        }
    }
}

/// The nearest whole number, ties to even, of numbers below 2^22, in a form that compilers turn into vectors.
#[inline(always)]
pub(super) fn nearest(x: f32) -> f32 {
    const ROUNDER: f32 = 12_582_912.0;
    (x + ROUNDER) - ROUNDER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    fn vectors(rows: usize, dim: usize) -> Vec<f32> {
        let mut stream = Stream::new(7, 7, 7);
        (0..rows * dim)
            .map(|i| (stream.next_u64() >> 40) as f32 / (1 << 24) as f32 + (i % dim) as f32)
            .collect()
    }

    #[test]
    fn turned_rows_keep_their_distances_and_get_unit_spread() {
        let (rows, dim) = (300, 70);
        let all = vectors(rows, dim);
        let frame = Frame::fit(rows, dim, Blocks::Fused, 3, |row, out| {
            out.copy_from_slice(&all[row as usize * dim..][..dim]);
            Ok(())
        })
        .unwrap();
        let turned: Vec<Vec<f32>> = all
            .chunks(dim)
            .map(|v| {
                let mut out = vec![0.0; frame.padded()];
                frame.turn(&mut v.to_vec(), &mut out);
                out
            })
            .collect();
        let spread: f32 = turned
            .iter()
            .map(|t| osler_kernels::sum_of_squares(t))
            .sum();
        assert!((spread / rows as f32 - 1.0).abs() < 1e-2);
        for i in 1..rows {
            let before =
                osler_kernels::l2(&all[..dim], &all[i * dim..][..dim]) * frame.per_unit().powi(2);
            let after = osler_kernels::l2(&turned[0], &turned[i]);
            assert!(
                (before - after).abs() < 1e-3 * before,
                "{before} and {after}"
            );
        }
    }

    #[test]
    fn coded_rows_keep_their_distances_to_a_few_thousandths() {
        let (rows, dim) = (100, 64);
        let all = vectors(rows, dim);
        let mut coded = CodedRows::zeroed(dim, rows);
        let mut centred = all.clone();
        for row in centred.chunks_mut(dim) {
            row.iter_mut()
                .enumerate()
                .for_each(|(i, x)| *x -= i as f32 + 0.5);
        }
        for (i, row) in centred.chunks(dim).enumerate() {
            let codes = &mut coded.codes[i * dim..][..dim];
            [coded.scales[i], coded.squares[i]] = Frame::encode(row, codes);
        }
        for i in 1..rows {
            let exact = osler_kernels::l2(&centred[..dim], &centred[i * dim..][..dim]);
            let found = coded.row(0).distance(&coded.row(i));
            assert!((exact - found).abs() < 0.01 * exact, "{exact} and {found}");
        }
    }

    #[test]
    fn equal_rows_have_a_frame() {
        let frame = Frame::fit(10, 5, Blocks::Fused, 0, |_, out| {
            out.fill(2.0);
            Ok(())
        })
        .unwrap();
        let mut out = vec![1.0; frame.padded()];
        frame.turn(&mut [2.0; 5], &mut out);
        assert!(out.iter().all(|&x| x == 0.0));
        let mut codes = vec![1; frame.padded()];
        assert_eq!(Frame::encode(&out, &mut codes), [0.0, 0.0]);
        assert!(codes.iter().all(|&c| c == 0));
    }
}
