//! What a score means, and which vectors can be scored.
//!
//! Works on one slice at a time; normalisation is done in f64, in order, so that it is the same on every machine.

use crate::error::{Error, Result};

/// How nearness is measured. A score is higher for nearer rows under each of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// The cosine of the angle, in [-1, 1]; rows are stored at unit length.
    Cosine,
    /// The inner product.
    Dot,
    /// Minus the squared Euclidean distance.
    L2,
}

impl Metric {
    /// All metrics with their public names.
    pub const NAMES: [(&'static str, Metric); 3] = [
        ("cosine", Metric::Cosine),
        ("dot", Metric::Dot),
        ("l2", Metric::L2),
    ];

    /// The metric of a public name.
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        Self::NAMES
            .iter()
            .find(|(n, _)| *n == name)
            .map(|&(_, metric)| metric)
            .ok_or_else(|| {
                Error::input(format!(
                    "metric is {name:?}; it can be \"cosine\", \"dot\" or \"l2\""
                ))
            })
    }

    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::Dot => "dot",
            Metric::L2 => "l2",
        }
    }

    /// A score as the user sees it: rounding can carry a cosine beyond its range.
    pub fn presented(self, score: f32) -> f32 {
        match self {
            Metric::Cosine => score.clamp(-1.0, 1.0),
            Metric::Dot | Metric::L2 => score,
        }
    }

    /// Checks a vector and, under cosine, brings it to unit length.
    ///
    /// # Errors
    /// [`Error::Input`] naming `what` and `at` for values that are not finite, for numbers whose squares overflow, and
    /// for a zero vector under cosine.
    pub fn prepare(self, vector: &mut [f32], what: &str, at: usize) -> Result<()> {
        if !osler_kernels::all_finite(vector) {
            let column = vector.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(Error::input(format!(
                "{what} row {at} has a value that is not finite in column {column}; remove or mend that vector"
            )));
        }
        match self {
            Metric::Cosine => {
                let norm = squares(vector).sqrt();
                if norm == 0.0 {
                    return Err(Error::input(format!(
                        "{what} row {at} is all zeros, which has no direction; remove it or use metric \"dot\" or \"l2\""
                    )));
                }
                let per_unit = 1.0 / norm;
                for x in vector {
                    *x = (f64::from(*x) * per_unit) as f32;
                }
            }
            Metric::Dot | Metric::L2 => {
                if squares(vector) > LARGEST {
                    return Err(Error::input(format!(
                        "{what} row {at} is too large to score in float32; scale the vectors down"
                    )));
                }
            }
        }
        Ok(())
    }
}

/// The squared length of the longest rows and queries: above it a score could overflow to infinity.
pub const LARGEST: f64 = f32::MAX as f64 / 16.0;

/// Brings what stands for a row, and may be longer than the row was, to the length that a row may have.
pub fn shorten(vector: &mut [f32]) {
    let found = squares(vector);
    if found > LARGEST {
        let by = (LARGEST / found).sqrt() * (1.0 - 1e-6);
        for x in vector {
            *x = (f64::from(*x) * by) as f32;
        }
    }
}

/// The squared length, in as many sums as compilers need to add several numbers at a time.
pub fn squares(vector: &[f32]) -> f64 {
    const LANES: usize = 16;
    let (blocks, tail) = vector.as_chunks::<LANES>();
    let mut sums = [0.0f64; LANES];
    for block in blocks {
        for (sum, &x) in sums.iter_mut().zip(block) {
            *sum += f64::from(x) * f64::from(x);
        }
    }
    let tail: f64 = tail.iter().map(|&x| f64::from(x) * f64::from(x)).sum();
    sums.iter().sum::<f64>() + tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cosine_rows_get_unit_length_even_when_tiny() {
        let mut row = [3e-30_f32, 4e-30];
        Metric::Cosine.prepare(&mut row, "vectors", 0).unwrap();
        assert_eq!(row, [0.6, 0.8]);
    }

    #[test]
    fn bad_rows_are_named() {
        let message = |metric: Metric, mut row: [f32; 2]| {
            metric
                .prepare(&mut row, "queries", 7)
                .unwrap_err()
                .to_string()
        };
        assert!(
            message(Metric::L2, [0.0, f32::NAN])
                .contains("queries row 7 has a value that is not finite in column 1")
        );
        assert!(message(Metric::Cosine, [0.0, 0.0]).contains("no direction"));
        assert!(message(Metric::Dot, [1e30, 0.0]).contains("too large"));
    }
}
