//! SQ8: a byte a value of the rotated residual, in steps of the row's own size.
//!
//! Works on slices. The rotation makes all values of a row alike in size, so one step serves them all; the inner product
//! is scaled so that a row's with itself is exact, as in RaBitQ (arXiv 2405.12497).

use super::rotation::Rotation;
use super::space::{Floats, FloatsOut, QueryTerms, Rounded, RowTerms, Space, round_to_i8};
use crate::metric::Metric;

/// SQ8 of one centre and rotation.
#[derive(Clone, Debug)]
pub struct Scalar {
    pub(super) space: Space,
    pub(super) rotation: Rotation,
}

/// A query ready to score codes.
#[derive(Clone, Debug)]
pub struct Prepared {
    metric: Metric,
    terms: QueryTerms,
    rounded: Rounded,
}

struct Parts<'a> {
    terms: RowTerms,
    scale: f32,
    steps: &'a [i8],
}

impl Scalar {
    pub(super) fn new(space: Space, seed: u64) -> Self {
        let rotation = Rotation::new(space.dim(), seed);
        Scalar { space, rotation }
    }

    pub(super) fn bytes(metric: Metric, dim: usize) -> usize {
        head(metric) + dim.next_multiple_of(super::rotation::STEP)
    }

    pub(super) fn encode(&self, row: &[f32], code: &mut [u8]) {
        let residual = self.space.residual(row);
        let mut rotated = vec![0.0; self.rotation.padded()];
        self.rotation.apply(&residual, &mut rotated);
        let metric = self.space.metric;
        let (floats, bytes) = code.split_at_mut(head(metric));
        let steps: &mut [i8] = bytemuck::cast_slice_mut(bytes);
        round_to_i8(&rotated, steps);
        let terms = self.space.row_terms(&residual);
        let along: f32 = osler_kernels::dot(&rotated, &widened(steps));
        let scale = if along > 0.0 { terms.norm / along } else { 0.0 };
        let mut floats = FloatsOut(floats);
        terms.write(metric, &mut floats);
        floats.put(scale);
    }

    pub(super) fn prepare(&self, query: &[f32]) -> Prepared {
        let residual = self.space.residual(query);
        let mut rotated = vec![0.0; self.rotation.padded()];
        self.rotation.apply(&residual, &mut rotated);
        Prepared {
            metric: self.space.metric,
            terms: self.space.query_terms(query, &residual),
            rounded: Rounded::new(&rotated),
        }
    }

    /// The rotated residual that the code stands for.
    pub(super) fn rotated(&self, code: &[u8]) -> Vec<f32> {
        let parts = parts(self.space.metric, code);
        let mut rotated = widened(parts.steps);
        rotated.iter_mut().for_each(|value| *value *= parts.scale);
        rotated
    }

    pub(super) fn between(&self, a: &[u8], b: &[u8]) -> f32 {
        let (a, b) = (parts(self.space.metric, a), parts(self.space.metric, b));
        let inner = osler_kernels::dot_i8(a.steps, b.steps) as f32 * a.scale * b.scale;
        self.space.between(a.terms, b.terms, inner)
    }
}

impl Prepared {
    #[inline]
    pub(super) fn score(&self, code: &[u8]) -> f32 {
        let parts = parts(self.metric, code);
        let steps = osler_kernels::dot_i8(&self.rounded.steps, parts.steps);
        let inner = steps as f32 * (self.rounded.step * parts.scale);
        self.terms.score(parts.terms, inner)
    }
}

/// Bytes before those of the values.
fn head(metric: Metric) -> usize {
    4 * (Space::row_floats(metric) + 1)
}

fn parts(metric: Metric, code: &[u8]) -> Parts<'_> {
    let (floats, bytes) = code.split_at(head(metric));
    let mut floats = Floats(floats);
    Parts {
        terms: RowTerms::read(metric, &mut floats),
        scale: floats.take(),
        steps: bytemuck::cast_slice(bytes),
    }
}

fn widened(steps: &[i8]) -> Vec<f32> {
    steps.iter().map(|&step| f32::from(step)).collect()
}
