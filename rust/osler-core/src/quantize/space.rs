//! Where rows and queries are measured from, and how an inner product there becomes a score.
//!
//! Works on slices; allocates nothing but its own centre. With row x, query q, centre c and r = x - c, every metric is
//! a constant of the query, a term of the row and a multiple of the inner product with r, which alone is estimated.

use crate::metric::Metric;

/// A centre and what scores mean around it.
#[derive(Clone, Debug)]
pub(super) struct Space {
    pub(super) metric: Metric,
    pub(super) centre: Vec<f32>,
}

/// What a row's code keeps beside its bits, as floats.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct RowTerms {
    /// Squared length of the residual.
    pub(super) norm: f32,
    /// Inner product of residual and centre, under [`Metric::Dot`] only.
    pub(super) shift: f32,
}

/// What a score is made of beside the row's own terms.
#[derive(Clone, Copy, Debug)]
pub(super) struct QueryTerms {
    metric: Metric,
    constant: f32,
    /// Length of the query's residual, by which errors grow.
    pub(super) length: f32,
}

impl Space {
    /// The space around the mean of `rows`, which is summed in row order.
    pub(super) fn around_mean(metric: Metric, rows: &[f32], dim: usize) -> Self {
        let mut sums = vec![0.0_f64; dim];
        for row in rows.chunks_exact(dim) {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += f64::from(value);
            }
        }
        let count = (rows.len() / dim).max(1) as f64;
        let centre = sums.iter().map(|sum| (sum / count) as f32).collect();
        Space { metric, centre }
    }

    pub(super) fn dim(&self) -> usize {
        self.centre.len()
    }

    pub(super) fn residual(&self, vector: &[f32]) -> Vec<f32> {
        vector
            .iter()
            .zip(&self.centre)
            .map(|(x, c)| x - c)
            .collect()
    }

    pub(super) fn row_terms(&self, residual: &[f32]) -> RowTerms {
        let shift = match self.metric {
            Metric::Dot => osler_kernels::dot(residual, &self.centre),
            Metric::Cosine | Metric::L2 => 0.0,
        };
        RowTerms {
            norm: osler_kernels::sum_of_squares(residual),
            shift,
        }
    }

    pub(super) fn query_terms(&self, query: &[f32], residual: &[f32]) -> QueryTerms {
        let norm = osler_kernels::sum_of_squares(residual);
        let constant = match self.metric {
            Metric::Cosine => 1.0 - norm / 2.0,
            Metric::Dot => osler_kernels::dot(query, &self.centre),
            Metric::L2 => -norm,
        };
        QueryTerms {
            metric: self.metric,
            constant,
            length: norm.sqrt(),
        }
    }

    /// Floats that [`RowTerms::write`] takes.
    pub(super) fn row_floats(metric: Metric) -> usize {
        match metric {
            Metric::Dot => 2,
            Metric::Cosine | Metric::L2 => 1,
        }
    }

    /// The score of two rows, of which the terms and the inner product of residuals are known.
    pub(super) fn between(&self, a: RowTerms, b: RowTerms, inner: f32) -> f32 {
        let squares = a.norm + b.norm - 2.0 * inner;
        match self.metric {
            Metric::Cosine => 1.0 - squares / 2.0,
            Metric::Dot => osler_kernels::sum_of_squares(&self.centre) + a.shift + b.shift + inner,
            Metric::L2 => -squares,
        }
    }
}

impl RowTerms {
    pub(super) fn write(self, metric: Metric, floats: &mut FloatsOut<'_>) {
        floats.put(self.norm);
        if metric == Metric::Dot {
            floats.put(self.shift);
        }
    }

    pub(super) fn read(metric: Metric, floats: &mut Floats<'_>) -> Self {
        let norm = floats.take();
        let shift = match metric {
            Metric::Dot => floats.take(),
            Metric::Cosine | Metric::L2 => 0.0,
        };
        RowTerms { norm, shift }
    }
}

impl QueryTerms {
    /// The score of a row of which the inner product of residuals is `inner`.
    #[inline]
    pub(super) fn score(&self, row: RowTerms, inner: f32) -> f32 {
        match self.metric {
            Metric::Cosine => self.constant - row.norm / 2.0 + inner,
            Metric::Dot => self.constant + row.shift + inner,
            Metric::L2 => self.constant - row.norm + 2.0 * inner,
        }
    }

    /// How far a score is off when the inner product is off by `inner`.
    pub(super) fn scale(&self) -> f32 {
        match self.metric {
            Metric::Cosine | Metric::Dot => 1.0,
            Metric::L2 => 2.0,
        }
    }
}

/// Reads floats of four bytes, the lowest first, one after another.
pub(super) struct Floats<'a>(pub(super) &'a [u8]);

impl Floats<'_> {
    #[inline]
    pub(super) fn take(&mut self) -> f32 {
        let Some((first, rest)) = self.0.split_first_chunk() else {
            return 0.0;
        };
        self.0 = rest;
        f32::from_le_bytes(*first)
    }
}

/// Writes floats as [`Floats`] reads them.
pub(super) struct FloatsOut<'a>(pub(super) &'a mut [u8]);

impl FloatsOut<'_> {
    pub(super) fn put(&mut self, value: f32) {
        if let Some((first, rest)) = std::mem::take(&mut self.0).split_first_chunk_mut() {
            *first = value.to_le_bytes();
            self.0 = rest;
        }
    }
}

/// The query rounded to 8 bits, with the value of one step.
#[derive(Clone, Debug)]
pub(super) struct Rounded {
    pub(super) steps: Vec<i8>,
    pub(super) step: f32,
}

impl Rounded {
    pub(super) fn new(values: &[f32]) -> Self {
        let mut steps = vec![0; values.len()];
        let step = round_to_i8(values, &mut steps);
        Rounded { steps, step }
    }
}

/// Rounds values to whole steps of a 127th of the largest; returns the step, 0 if all are 0.
pub(super) fn round_to_i8(values: &[f32], steps: &mut [i8]) -> f32 {
    let largest = values.iter().fold(0.0_f32, |largest, &value| {
        if value.abs() > largest {
            value.abs()
        } else {
            largest
        }
    });
    let step = largest / 127.0;
    if step < f32::MIN_POSITIVE {
        steps.fill(0);
        return 0.0;
    }
    for (out, &value) in steps.iter_mut().zip(values) {
        let steps = value / step;
        // Truncation after half a step is rounding, without the call that `round` is on old CPUs.
        *out = (steps + 0.5_f32.copysign(steps)) as i8;
    }
    step
}
