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
    let sampled: Vec<f32> = sample[..size]
        .iter()
        .flat_map(|&row| &rows[row * dim..][..dim])
        .copied()
        .collect();
    let row = |i: usize| &sampled[i * dim..][..dim];
    let columns = Columns::new(&sampled, dim);

    let mut centroids = row(0).to_vec();
    let mut squares = vec![f32::INFINITY; size];
    let mut nearness = vec![0.0; size];
    let mut newest = 0;
    while centroids.len() < count * dim {
        columns.nearness(row(newest), &mut nearness);
        let norm = osler_kernels::sum_of_squares(row(newest));
        for (square, nearness) in squares.iter_mut().zip(&nearness) {
            let to_newest = (norm - 2.0 * nearness).max(0.0);
            *square = square.min(to_newest);
        }
        squares[newest] = 0.0;
        let total: f64 = squares.iter().map(|&square| f64::from(square)).sum();
        let mut left = (stream.next_u64() >> 11) as f64 / (1_u64 << 53) as f64 * total;
        // Rounding may leave something after the last row; without any distance all rows are alike.
        newest = size - 1;
        for (i, &square) in squares.iter().enumerate() {
            left -= f64::from(square);
            if left < 0.0 {
                newest = i;
                break;
            }
        }
        centroids.extend_from_slice(row(newest));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pool::Pool;

    /// Rows around four corners of a square, 100 of each.
    fn corners() -> Vec<f32> {
        let mut stream = Stream::new(0, 0, 0);
        let mut noise = || (stream.next_u64() >> 40) as f32 / 16_777_216.0;
        (0..400)
            .flat_map(|i| {
                [
                    (i % 2) as f32 * 10.0 + noise(),
                    (i / 2 % 2) as f32 * 10.0 + noise(),
                ]
            })
            .collect()
    }

    #[test]
    fn clusters_that_lie_apart_are_found() {
        let rows = corners();
        for seed in 0..10 {
            let centroids = kmeans(&rows, 2, 4, 10, seed, 0);
            let mut found: Vec<[i32; 2]> = centroids
                .chunks_exact(2)
                .map(|c| [(c[0] - 0.5).round() as i32, (c[1] - 0.5).round() as i32])
                .collect();
            found.sort_unstable();
            assert_eq!(found, [[0, 0], [0, 10], [10, 0], [10, 10]], "seed {seed}");
        }
    }

    #[test]
    fn a_centroid_without_rows_moves_to_the_farthest_row() {
        let rows = corners();
        let far = refine(&rows, 2, vec![5.0, 5.0, 900.0, 900.0, -900.0, 0.0], 1);
        for centroid in far[2..].chunks_exact(2) {
            assert!(rows.chunks_exact(2).any(|row| row == centroid));
        }
        assert_ne!(far[2..4], far[4..6]);
    }

    #[test]
    fn fewer_rows_than_centroids_and_equal_rows_are_no_matter() {
        assert_eq!(kmeans(&[], 3, 2, 5, 0, 0), [0.0; 6]);
        let centroids = kmeans(&[1.0, 2.0].repeat(50), 2, 16, 5, 0, 0);
        assert_eq!(centroids, [1.0, 2.0].repeat(16));
        let two = kmeans(&[0.0, 8.0], 1, 4, 5, 0, 0);
        assert!(two.contains(&0.0) && two.contains(&8.0));
    }

    #[test]
    fn the_same_bytes_at_any_number_of_threads() {
        let mut stream = Stream::new(1, 0, 0);
        let rows: Vec<f32> = (0..5 * 3000)
            .map(|_| (stream.next_u64() >> 40) as f32)
            .collect();
        let at = |threads| {
            let run = || Ok(kmeans(&rows, 5, 37, 6, 0, 0));
            Pool::default().run(threads, run).unwrap()
        };
        let one = at(1);
        assert!([2, 3, 8].into_iter().all(|threads| at(threads) == one));
    }
}
