//! Rows as bytes: what a graph is built over, whatever the metric. Reads codes and scales, never the vectors.
//!
//! A row stands for `scale * codes`, and the squared distance of two rows is that of what they stand for. Integer
//! products and a fixed order of `f32` operations make it the same bits at every SIMD level, in either direction.

use rayon::prelude::*;

use super::prune::Distances;
use crate::error::{Error, Read, Result};

/// Rows scaled to bytes, of one length that is a multiple of 64; short rows end in zeros.
pub struct ByteRows<'a> {
    dim: usize,
    codes: &'a [i8],
    scales: &'a [f32],
    squares: Vec<f32>,
}

impl<'a> ByteRows<'a> {
    /// Rows of `dim` codes each, one scale a row.
    ///
    /// # Errors
    /// [`Error::Input`] where lengths do not fit, a code is -128, or a length is not finite.
    pub fn new(dim: usize, codes: &'a [i8], scales: &'a [f32]) -> Result<Self> {
        let fits = dim.is_multiple_of(osler_kernels::PANEL_DIM_STEP)
            && (1..=osler_kernels::MAX_PANEL_DIM).contains(&dim)
            && scales.len().checked_mul(dim) == Some(codes.len())
            && u32::try_from(scales.len()).is_ok();
        if !fits {
            return Err(Error::input(format!(
                "{} codes and {} scales are no rows of {dim} codes, a multiple of 64",
                codes.len(),
                scales.len()
            )));
        }
        let squares: Vec<f32> = codes
            .par_chunks_exact(dim)
            .zip(scales)
            .map(|(row, &scale)| (scale * scale) * osler_kernels::dot_i8(row, row) as f32)
            .collect();
        // A quarter of the range, so that no distance leaves it.
        let finite = |&square: &f32| square < f32::MAX / 4.0;
        if !squares.par_iter().all(finite) || codes.par_iter().any(|&code| code == i8::MIN) {
            return Err(Error::input(
                "rows to build a graph over need finite scales and codes from -127 to 127",
            ));
        }
        Ok(ByteRows {
            dim,
            codes,
            scales,
            squares,
        })
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.scales.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.scales.is_empty()
    }

    /// Codes of a row.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The codes of a row.
    #[inline]
    pub fn codes(&self, row: u32) -> &'a [i8] {
        &self.codes[row as usize * self.dim..][..self.dim]
    }

    /// The scale of a row.
    #[inline]
    pub fn scale(&self, row: u32) -> f32 {
        self.scales[row as usize]
    }

    /// The squared length of a row.
    #[inline]
    pub fn square(&self, row: u32) -> f32 {
        self.squares[row as usize]
    }

    /// Squared distances of a row to four others.
    #[inline]
    pub fn distances(&self, row: u32, others: [u32; 4]) -> [f32; 4] {
        let dots = osler_kernels::dot4_i8(self.codes(row), others.map(|other| self.codes(other)));
        let (scale, square) = (self.scale(row), self.square(row));
        std::array::from_fn(|i| {
            let product = (2.0 * (scale * self.scale(others[i]))) * dots[i] as f32;
            ((square + self.square(others[i])) - product).max(0.0)
        })
    }
}

impl Distances for ByteRows<'_> {
    #[inline]
    fn to_four(&self, from: u32, to: [u32; 4]) -> Read<[f32; 4]> {
        Ok(self.distances(from, to))
    }

    #[inline]
    fn prefetch(&self, at: u32) {
        osler_kernels::prefetch(self.codes(at));
    }
}
