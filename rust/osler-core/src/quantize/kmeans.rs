//! Centroids of rows: k-means++ seeds on a sample, then Lloyd's rounds.
//!
//! The same bytes at any number of threads: rows are assigned one by one, and each centroid adds up its own rows in row
//! order. Arthur and Vassilvitskii, "k-means++: the advantages of careful seeding" (2007); Lloyd (1982).

use rayon::prelude::*;

use crate::random::Stream;

/// Number of the random stream, of which no other part of the engine has the same.
const PURPOSE: u64 = 11;

/// Rows per centroid that seeds are drawn from.
const SEED_ROWS: usize = 16;

/// Rows that one task assigns: no result depends on it.
const TASK_ROWS: usize = 256;

/// Centroids ready to compare a vector with all of them at once.
#[derive(Clone, Debug, PartialEq)]
pub struct Columns {
    dim: usize,
    count: usize,
    /// Value by value, that value of all centroids.
    values: Vec<f32>,
    /// Minus half the squared length of each centroid.
    starts: Vec<f32>,
}

impl Columns {
    /// From centroids one after another.
    pub fn new(centroids: &[f32], dim: usize) -> Self {
        let count = centroids.len() / dim;
        let mut values = vec![0.0; centroids.len()];
        for (j, centroid) in centroids.chunks_exact(dim).enumerate() {
            for (i, &value) in centroid.iter().enumerate() {
                values[i * count + j] = value;
            }
        }
        let starts = centroids
            .chunks_exact(dim)
            .map(|centroid| -osler_kernels::sum_of_squares(centroid) / 2.0)
            .collect();
        Columns {
            dim,
            count,
            values,
            starts,
        }
    }

    /// Number of centroids.
    pub fn count(&self) -> usize {
        self.count
    }

    /// For each centroid, its inner product with `vector` minus half its squared length: highest for the nearest.
    pub fn nearness(&self, vector: &[f32], out: &mut [f32]) {
        osler_kernels::columns(vector, &self.values, &self.starts, out);
    }

    /// For each centroid, its inner product with `vector`.
    pub fn products(&self, vector: &[f32], out: &mut [f32]) {
        osler_kernels::columns(vector, &self.values, &vec![0.0; self.count], out);
    }

    /// The nearest centroid, the first of equals; `out` holds every nearness.
    pub fn nearest(&self, vector: &[f32], out: &mut [f32]) -> usize {
        self.nearness(vector, out);
        osler_kernels::position_of_max(out)
    }

    /// Centroid `j`.
    pub fn centroid(&self, j: usize) -> impl Iterator<Item = f32> {
        (0..self.dim).map(move |i| self.values[i * self.count + j])
    }
}

/// `count` centroids of `rows`, one after another. Runs on the threads that it is called on.
///
/// `number` tells apart the calls of one seed. With fewer distinct rows than `count` some centroids are equal.
pub fn kmeans(
    rows: &[f32],
    dim: usize,
    count: usize,
    rounds: usize,
    seed: u64,
    number: u64,
) -> Vec<f32> {
    if rows.is_empty() {
        return vec![0.0; count * dim];
    }
    let seeds = seed_centroids(rows, dim, count, Stream::new(seed, PURPOSE, number));
    refine(rows, dim, seeds, rounds)
}

/// Lloyd's rounds from given centroids, until nothing changes or `rounds` are done.
pub fn refine(rows: &[f32], dim: usize, mut centroids: Vec<f32>, rounds: usize) -> Vec<f32> {
    let mut nearest = Vec::new();
    for _ in 0..rounds {
        let now = assign(rows, dim, &centroids);
        if now == nearest {
            break;
        }
        nearest = now;
        update(rows, dim, &nearest, &mut centroids);
    }
    centroids
}

/// The nearest centroid of every row.
pub fn assign(rows: &[f32], dim: usize, centroids: &[f32]) -> Vec<u32> {
    let columns = Columns::new(centroids, dim);
    let mut nearest = vec![0; rows.len() / dim];
    rows.par_chunks(TASK_ROWS * dim)
        .zip(nearest.par_chunks_mut(TASK_ROWS))
        .for_each(|(rows, nearest)| {
            let mut out = vec![0.0; columns.count];
            for (row, nearest) in rows.chunks_exact(dim).zip(nearest) {
                *nearest = columns.nearest(row, &mut out) as u32;
            }
        });
    nearest
}

fn seed_centroids(rows: &[f32], dim: usize, count: usize, mut stream: Stream) -> Vec<f32> {
    let all = rows.len() / dim;
    let mut sample: Vec<usize> = (0..all).collect();
    let size = all.min(SEED_ROWS * count);
    // The beginning of a shuffle is a sample.
    for i in 0..size {
        sample.swap(i, i + stream.below((all - i) as u64) as usize);
    }
    let row = |i: usize| &rows[sample[i] * dim..][..dim];

    let mut centroids = row(0).to_vec();
    let mut squares: Vec<f32> = (0..size)
        .map(|i| osler_kernels::l2(row(i), row(0)))
        .collect();
    while centroids.len() < count * dim {
        let total: f64 = squares.iter().map(|&square| f64::from(square)).sum();
        let mut left = (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        // Rounding may leave something after the last row; without any distance all rows are alike.
        let mut chosen = size - 1;
        for (i, &square) in squares.iter().enumerate() {
            left -= f64::from(square);
            if left < 0.0 {
                chosen = i;
                break;
            }
        }
        let new = row(chosen).to_vec();
        for (i, square) in squares.iter_mut().enumerate() {
            *square = square.min(osler_kernels::l2(row(i), &new));
        }
        centroids.extend(new);
    }
    centroids
}

/// Moves each centroid to the mean of its rows; one without rows to the row that lies farthest from its own.
fn update(rows: &[f32], dim: usize, nearest: &[u32], centroids: &mut [f32]) {
    let count = centroids.len() / dim;
    let mut ends = vec![0; count + 1];
    for &j in nearest {
        ends[j as usize + 1] += 1;
    }
    for j in 0..count {
        ends[j + 1] += ends[j];
    }
    let starts = ends.clone();
    let mut members = vec![0; nearest.len()];
    let mut next = starts.clone();
    for (row, &j) in nearest.iter().enumerate() {
        members[next[j as usize]] = row;
        next[j as usize] += 1;
    }

    let mut empty: Vec<usize> = (0..count).filter(|&j| starts[j] == starts[j + 1]).collect();
    if !empty.is_empty() {
        let mut far: Vec<(f32, usize)> = nearest
            .iter()
            .enumerate()
            .map(|(row, &j)| {
                let centroid = &centroids[j as usize * dim..][..dim];
                (osler_kernels::l2(&rows[row * dim..][..dim], centroid), row)
            })
            .collect();
        far.sort_unstable_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        empty.truncate(far.len());
        for (&j, &(_, row)) in empty.iter().zip(&far) {
            centroids[j * dim..][..dim].copy_from_slice(&rows[row * dim..][..dim]);
        }
    }

    centroids
        .par_chunks_exact_mut(dim)
        .enumerate()
        .for_each(|(j, centroid)| {
            let members = &members[starts[j]..starts[j + 1]];
            if members.is_empty() {
                return;
            }
            let mut sums = vec![0.0_f64; dim];
            for &row in members {
                for (sum, &value) in sums.iter_mut().zip(&rows[row * dim..][..dim]) {
                    *sum += f64::from(value);
                }
            }
            for (value, sum) in centroid.iter_mut().zip(sums) {
                *value = (sum / members.len() as f64) as f32;
            }
        });
}
