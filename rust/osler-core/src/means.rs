//! Mean vectors of items: bounds of an item's mean and sum from one product, so that few items need all their parts scored.
//!
//! Reads every row once, when it is made; then holds one vector an item. A mean of inner products is the product with the
//! mean vector, and a mean of squared distances differs from the squared distance to it by a number of the item.

use crate::error::Result;
use crate::group::Items;
use crate::metric::Metric;
use crate::parts::Score;
use crate::state::State;

/// The rounding of a sum of products, in units of the last place of its largest possible value: a generous multiple of
/// what `osler_kernels` can lose, which adds in 32 lanes.
fn rounding(dim: usize) -> f64 {
    4.0 * (dim as f64 / 32.0 + 16.0) * f64::from(f32::EPSILON)
}

/// The mean vector of each item, over all its rows.
#[derive(Debug)]
pub struct Means {
    dim: usize,
    vectors: Vec<f32>,
    /// The mean of the squared lengths of each item's rows.
    squares: Vec<f64>,
    /// The greatest length of a row.
    longest: f64,
}

/// What is known of an item before its parts are scored: its score is between `lower` and `upper`.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The item.
    pub item: u32,
    /// At most its score.
    pub lower: f32,
    /// At least its score.
    pub upper: f32,
}

impl Means {
    /// Reads all rows.
    ///
    /// # Errors
    /// [`crate::error::Error::Corrupt`] where a row lies in a damaged block of a file.
    pub fn new(state: &State, items: &Items) -> Result<Self> {
        let dim = state.params.dim;
        let mut vectors = Vec::with_capacity(items.count() * dim);
        let mut squares = Vec::with_capacity(items.count());
        let mut longest = 0.0_f64;
        let (mut row, mut sums) = (vec![0.0_f32; dim], vec![0.0_f64; dim]);
        for item in 0..items.count() as u32 {
            let rows = items.rows(item);
            let parts = rows.len() as f64;
            let mut square = 0.0;
            sums.fill(0.0);
            for &at in rows {
                state.vector(at, &mut row)?;
                let mut own = 0.0;
                for (sum, &x) in sums.iter_mut().zip(&row) {
                    *sum += f64::from(x);
                    own += f64::from(x) * f64::from(x);
                }
                square += own;
                longest = longest.max(own);
            }
            vectors.extend(sums.iter().map(|sum| (sum / parts) as f32));
            squares.push(square / parts);
        }
        Ok(Means {
            dim,
            vectors,
            squares,
            longest: longest.sqrt(),
        })
    }

    /// The bounds of the mean, or of the sum, of each of `items` for a query of prepared vectors.
    pub fn bounds(
        &self,
        metric: Metric,
        score: Score,
        query: &[f32],
        items: impl Iterator<Item = (u32, usize)>,
    ) -> Vec<Bounds> {
        let vectors: Vec<(&[f32], f64, f64)> = query
            .chunks_exact(self.dim)
            .map(|vector| {
                let square: f64 = vector.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
                let size = match metric {
                    Metric::L2 => (square.sqrt() + self.longest).powi(2),
                    Metric::Cosine | Metric::Dot => square.sqrt() * self.longest,
                };
                (vector, square, rounding(self.dim) * size)
            })
            .collect();
        let of_item = |(item, parts): (u32, usize)| {
            let mean = &self.vectors[item as usize * self.dim..(item as usize + 1) * self.dim];
            let times = if score == Score::Sum {
                parts as f64
            } else {
                1.0
            };
            let (mut lower, mut upper) = (f64::NEG_INFINITY, f64::NEG_INFINITY);
            for &(vector, square, slack) in &vectors {
                let product = f64::from(osler_kernels::dot(vector, mean));
                let value = match metric {
                    Metric::L2 => 2.0 * product - square - self.squares[item as usize],
                    Metric::Cosine | Metric::Dot => product,
                };
                lower = lower.max(times * (value - slack));
                upper = upper.max(times * (value + slack));
            }
            Bounds {
                item,
                lower: (lower as f32).clamp(f32::MIN, f32::MAX).next_down(),
                upper: (upper as f32).clamp(f32::MIN, f32::MAX).next_up(),
            }
        };
        items.map(of_item).collect()
    }
}
