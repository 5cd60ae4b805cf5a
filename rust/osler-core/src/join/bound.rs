//! A short image of every row, from which no score is underestimated: what a pair must reach before it is scored.
//!
//! Reads rows, allocates two images of [`Image::width`] and [`Image::long_width`] numbers a row. After translation by the mean, a row's image is its
//! coordinates along the directions of most variance and the length of what is left; the Cauchy-Schwarz inequality on the
//! rest bounds an inner product from above (partial distances: Bei and Gray 1985; after a principal axes transform:
//! McNames, "A fast nearest-neighbor algorithm based on a principal axis search tree", TPAMI 2001).
//!
//! Rounding is part of the bound, never ignored: `gamma` bounds the relative error of a sum of `dim` products in 32 lanes
//! (Higham, "Accuracy and Stability of Numerical Algorithms", section 3.1), and the directions' distance from
//! orthonormal ones is measured in f64.

use rayon::prelude::*;

use super::Sides;
use crate::error::Result;
use crate::metric::Metric;
use crate::pool::Control;
use crate::random::Stream;

/// Directions of an image and of a long image; one more number is the rest. Measured on text and CLIP-like vectors: of the
/// pairs that the first lets through, the second stops two in three.
const DIRECTIONS: [usize; 2] = [31, 63];

/// Rows that the directions are learnt from.
const SAMPLE: usize = 2048;

/// Steps of the subspace iteration. Directions that are not quite the principal ones only prune less.
const STEPS: usize = 4;

/// Rows that are projected together.
const BLOCK: usize = 64;

/// Rounding error of one `f32` operation, relative.
const UNIT: f64 = f32::EPSILON as f64 / 2.0;

/// Purpose of the random stream.
const PURPOSE: u64 = 0x6a6f_696e;

/// The images of all rows, in units in which no number of a row exceeds 2.
pub struct Image {
    /// Numbers of one image.
    pub width: usize,
    /// Coordinates and rest of each row.
    pub values: Vec<f32>,
    /// Numbers of one long image.
    pub long_width: usize,
    /// More coordinates, with what they leave as the rest.
    pub long: Vec<f32>,
    /// What a row adds to the bound of each of its pairs.
    pub terms: Vec<f32>,
    /// Squared length of each row, not underestimated.
    pub squares: Vec<f32>,
    /// A pair is reported only if the inner product of its images plus both terms, in `f32`, is not below this, and that of
    /// its long images neither.
    pub floor: f32,
    /// Rounding error of inner products of coordinates with points among them.
    pub error: f64,
    /// What is added to the distance of two rows to get one that their coordinates never exceed.
    pub slack: f64,
    /// Squared distance of a reported pair at most; under inner products the squared lengths of both are added.
    reach: f64,
    metric: Metric,
}

impl Image {
    /// Images of all rows, which the metric has prepared, for pairs that score at least `threshold`.
    pub fn new(sides: &Sides, metric: Metric, threshold: f32, control: &Control) -> Result<Image> {
        let (dim, count) = (sides.dim, sides.count());
        let scale = scale(sides, metric);
        let (mean, directions) = learn(sides, scale);
        let found = directions.len() / dim;
        let short = found.min(DIRECTIONS[0]);
        let (width, long_width) = (short + 1, found + 1);
        let mut image = Image {
            width,
            values: vec![0.0; count * width],
            long_width,
            long: vec![0.0; count * long_width],
            terms: vec![0.0; count],
            squares: vec![0.0; count],
            floor: f32::NEG_INFINITY,
            error: 0.0,
            slack: 0.0,
            reach: 0.0,
            metric,
        };
        // Sums in 32 lanes round once a term and five times at the end; the factor covers the higher orders.
        let gamma = (dim as f64 / 32.0 + 8.0) * UNIT * 1.1;
        let from_orthonormal = distance_from_orthonormal(&directions, dim);
        let coordinate = 2.0 * (2.0 * UNIT + from_orthonormal + (found as f64).sqrt() * gamma);
        let mean_squares = squares(&mean);
        let parts = image
            .values
            .par_chunks_mut(BLOCK * width)
            .zip(image.long.par_chunks_mut(BLOCK * long_width))
            .zip(image.terms.par_chunks_mut(BLOCK))
            .zip(image.squares.par_chunks_mut(BLOCK))
            .enumerate();
        let largest = parts
            .map(
                |(block, (((values, long), terms), lengths))| -> Result<f64> {
                    control.check()?;
                    let mut scaled = vec![0.0; dim];
                    let mut moved = vec![0.0; terms.len() * dim];
                    let mut along = vec![0.0; terms.len() * found];
                    let mut largest = 0.0_f64;
                    let mut moved_squares = [0.0; BLOCK];
                    for i in 0..terms.len() {
                        let row = sides.row((block * BLOCK + i) as u32);
                        let moved = &mut moved[i * dim..(i + 1) * dim];
                        for j in 0..dim {
                            scaled[j] = row[j] * scale;
                            moved[j] = scaled[j] - mean[j];
                        }
                        let own = f64::from(osler_kernels::sum_of_squares(&scaled));
                        moved_squares[i] = f64::from(osler_kernels::sum_of_squares(moved));
                        largest = largest.max(own).max(moved_squares[i]);
                        lengths[i] = up(own * (1.0 + gamma));
                        terms[i] = match metric {
                            Metric::L2 => -moved_squares[i] / 2.0,
                            _ => f64::from(osler_kernels::dot(&scaled, &mean)) - mean_squares / 2.0,
                        } as f32;
                    }
                    osler_kernels::dot_tile(&moved, &directions, dim, &mut along);
                    for i in 0..terms.len() {
                        let along = &along[i * found..(i + 1) * found];
                        let all = moved_squares[i] * (1.0 + 2.0 * gamma + 3.0 * coordinate);
                        let rest = |along: &[f32]| up((all - squares(along)).max(0.0).sqrt());
                        let values = &mut values[i * width..(i + 1) * width];
                        values[..short].copy_from_slice(&along[..short]);
                        values[short] = rest(&along[..short]);
                        let long = &mut long[i * long_width..(i + 1) * long_width];
                        long[..found].copy_from_slice(along);
                        long[found] = rest(along);
                    }
                    Ok(largest)
                },
            )
            .try_reduce(|| 0.0, |a, b| Ok(a.max(b)))?;
        let largest = largest.max(mean_squares) * 1.01 + f64::from(f32::MIN_POSITIVE);
        let per_sum = (long_width as f64 + 4.0) * UNIT;
        // A score of f32 can lose this to underflow, which is absolute.
        let area = f64::from(scale) * f64::from(scale);
        let lost = dim as f64 * f64::from(f32::MIN_POSITIVE) * area.max(1.0);
        let threshold = f64::from(threshold) * area;
        let margin = (4.0 * coordinate + 8.0 * gamma + 8.0 * per_sum) * largest + lost;
        image.error = 16.0 * per_sum * largest;
        image.slack = 2.0 * coordinate * largest.sqrt();
        let floor;
        (floor, image.reach) = match metric {
            Metric::L2 => {
                let farthest = -threshold * (1.0 + 2.0 * gamma) + lost;
                (-farthest / 2.0, farthest)
            }
            _ => (threshold, 2.0 * (gamma * largest + lost - threshold)),
        };
        image.floor = -up(margin - floor);
        Ok(image)
    }

    /// Distance of a reported pair's coordinates at most, given squared lengths that its rows do not exceed; None where
    /// there can be no such pair.
    pub fn radius(&self, squares: [f32; 2]) -> Option<f64> {
        let lengths = match self.metric {
            Metric::L2 => 0.0,
            _ => f64::from(squares[0]) + f64::from(squares[1]),
        };
        let reach = self.reach + lengths;
        (reach >= 0.0).then(|| reach.sqrt() * (1.0 + UNIT) + self.slack)
    }

    /// Share of random pairs that would have to be scored.
    pub fn share(&self) -> f64 {
        const DRAWS: usize = 4096;
        let rows = self.terms.len() as u64;
        let mut stream = Stream::new(0, PURPOSE, 1);
        let mut reached = 0;
        for _ in 0..DRAWS {
            let [a, b] = [0; 2].map(|_: i32| stream.below(rows) as usize);
            let [x, y] = [a, b].map(|row| &self.values[row * self.width..][..self.width]);
            let sum = osler_kernels::dot(x, y) + self.terms[a] + self.terms[b];
            reached += usize::from(sum >= self.floor);
        }
        reached as f64 / DRAWS as f64
    }
}

/// To `f32`, never downwards.
pub fn up(value: f64) -> f32 {
    let near = value as f32;
    if f64::from(near) < value {
        near.next_up()
    } else {
        near
    }
}

fn squares(values: &[f32]) -> f64 {
    values.iter().map(|&x| f64::from(x) * f64::from(x)).sum()
}

/// A power of two, so that scaling is exact.
fn scale(sides: &Sides, metric: Metric) -> f32 {
    if metric == Metric::Cosine {
        return 1.0;
    }
    let largest = sides
        .parts()
        .iter()
        .flat_map(|part| part.iter())
        .fold(0.0_f32, |most, x| most.max(x.abs()));
    if largest < f32::MIN_POSITIVE {
        1.0
    } else {
        (-f64::from(largest).log2().floor())
            .clamp(-126.0, 126.0)
            .exp2() as f32
    }
}

/// The mean of some rows and the directions in which they vary most, by subspace iteration.
fn learn(sides: &Sides, scale: f32) -> (Vec<f32>, Vec<f32>) {
    let (dim, count) = (sides.dim, sides.count());
    let taken = SAMPLE.min(count);
    let mut stream = Stream::new(0, PURPOSE, 0);
    let mut sample = Vec::with_capacity(taken * dim);
    for _ in 0..taken {
        let row = sides.row(stream.below(count as u64) as u32);
        sample.extend(row.iter().map(|x| x * scale));
    }
    let mut sums = vec![0.0_f64; dim];
    for row in sample.chunks_exact(dim) {
        for (sum, &x) in sums.iter_mut().zip(row) {
            *sum += f64::from(x);
        }
    }
    let mean: Vec<f32> = sums.iter().map(|sum| (sum / taken as f64) as f32).collect();
    for row in sample.chunks_exact_mut(dim) {
        for (x, m) in row.iter_mut().zip(&mean) {
            *x -= m;
        }
    }
    let turned = transposed(&sample, dim);
    let wanted = DIRECTIONS[1].min(dim);
    let mut directions: Vec<f32> = (0..wanted * dim)
        .map(|_| (stream.next_u64() >> 40) as f32 / 8_388_608.0 - 1.0)
        .collect();
    orthonormalise(&mut directions, dim);
    let mut along = vec![0.0; taken * wanted];
    for _ in 0..STEPS {
        osler_kernels::dot_tile(&directions, &sample, dim, &mut along);
        osler_kernels::dot_tile(&along, &turned, taken, &mut directions);
        orthonormalise(&mut directions, dim);
    }
    (mean, directions)
}

fn transposed(rows: &[f32], dim: usize) -> Vec<f32> {
    let count = rows.len() / dim;
    let mut turned = vec![0.0; rows.len()];
    for (i, row) in rows.chunks_exact(dim).enumerate() {
        for (j, &x) in row.iter().enumerate() {
            turned[j * count + i] = x;
        }
    }
    turned
}

/// Gram and Schmidt, twice ("twice is enough": Giraud, Langou and Rozloznik 2005). A row that depends on those before it
/// becomes zero.
fn orthonormalise(rows: &mut [f32], dim: usize) {
    let mut done: Vec<Vec<f64>> = Vec::new();
    for row in rows.chunks_exact_mut(dim) {
        let mut own: Vec<f64> = row.iter().copied().map(f64::from).collect();
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let before = length(&own);
        for _ in 0..2 {
            for other in &done {
                let along: f64 = own.iter().zip(other).map(|(a, b)| a * b).sum();
                own.iter_mut().zip(other).for_each(|(a, b)| *a -= along * b);
            }
        }
        let left = length(&own);
        if left > before * 1e-9 && left > f64::from(f32::MIN_POSITIVE) {
            own.iter_mut().for_each(|x| *x /= left);
            row.iter_mut().zip(&own).for_each(|(x, &y)| *x = y as f32);
            done.push(own);
        } else {
            row.fill(0.0);
        }
    }
}

/// Bounds how far the rows that are not zero are from the nearest orthonormal ones, in the spectral norm: that of
/// `Q Q' - I` bounds it, because `|s - 1| <= |s^2 - 1|` for every singular value `s`.
fn distance_from_orthonormal(rows: &[f32], dim: usize) -> f64 {
    let rows: Vec<&[f32]> = rows
        .chunks_exact(dim)
        .filter(|row| row.iter().any(|&x| x != 0.0))
        .collect();
    let mut sum = 0.0;
    for (i, a) in rows.iter().enumerate() {
        for (j, b) in rows.iter().enumerate() {
            let product: f64 = a
                .iter()
                .zip(*b)
                .map(|(&x, &y)| f64::from(x) * f64::from(y))
                .sum();
            sum += (product - f64::from(u8::from(i == j))).powi(2);
        }
    }
    sum.sqrt() * (1.0 + 1e-9) + 1e-12
}
