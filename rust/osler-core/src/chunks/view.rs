//! A table for many reads: the way to its first rows looked up once.
//!
//! Reads rows; asks the processor for what is read soon.

use bytemuck::Pod;

use super::Rows;
use crate::error::Read;

/// A table for many reads; see [`Rows::view`].
pub struct View<'a, T> {
    table: &'a Rows<T>,
    flat: &'a [T],
    rows: usize,
    stride: usize,
    width: usize,
}

impl<'a, T: Pod> View<'a, T> {
    /// The view of a table whose first rows lie in `flat`.
    pub(super) fn new(table: &'a Rows<T>, flat: &'a [T]) -> Self {
        View {
            table,
            flat,
            rows: table.flat.as_ref().map_or(0, |flat| flat.rows),
            stride: table.stride(),
            width: table.width(),
        }
    }

    /// One row, which must exist.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Read<&'a [T]> {
        if row < self.rows {
            let start = row * self.stride;
            Ok(&self.flat[start..start + self.width])
        } else {
            self.table.row(row)
        }
    }

    /// Asks the processor to fetch the first elements of a row that will be read soon.
    #[inline(always)]
    pub fn prefetch_start(&self, row: usize, elements: usize) {
        if row < self.rows {
            let start = row * self.stride;
            osler_kernels::prefetch(&self.flat[start..start + elements]);
        } else {
            self.table.prefetch_start(row, elements);
        }
    }

    /// Rows in the table.
    #[inline(always)]
    pub fn count(&self) -> usize {
        self.table.len()
    }
}
