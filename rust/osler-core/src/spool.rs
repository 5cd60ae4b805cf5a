//! Rows in an unlinked temporary file, mapped: tables that must not stay in memory.
//!
//! Written once from the first row to the last, with one chunk of memory; what was written is not changed again, so a
//! forked child and its parent may both read it. Checksums are those of an index file.

use std::sync::Arc;

use bytemuck::Pod;

use crate::chunks::Rows;
use crate::error::Result;
use crate::file::blocks::Blocks;
use crate::file::kind;
use crate::file::map::Map;
use crate::file::shape::Shape;
use crate::file::sums::{Salt, Sums};
use crate::fs::real::Unlinked;

/// Takes the place of the section in checksums.
const SALT: Salt = Salt {
    id: *b"a temporary file",
    kind: kind::VECTORS,
    number: 0,
};
const NAME: &str = "the temporary file of vectors";

/// A table that is being written.
pub struct Spool<T> {
    file: Unlinked,
    chunk: Rows<T>,
    checksums: Vec<u32>,
    rows: usize,
}

impl<T: Pod> Spool<T> {
    /// A table of rows of `width` elements, without rows.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`] if there is no room for a temporary file.
    pub fn new(width: usize) -> Result<Self> {
        Ok(Spool {
            file: Unlinked::new()?,
            chunk: Rows::new(width),
            checksums: Vec::new(),
            rows: 0,
        })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    pub fn push(&mut self, row: &[T]) -> Result<()> {
        self.chunk.push(row)?;
        self.rows += 1;
        if self.chunk.len() == 1 << self.chunk.shape().shift {
            self.flush()?;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if !self.chunk.is_empty() {
            let bytes = self.chunk.block_bytes(self.chunk.shape(), 0)?;
            let index = self.checksums.len() as u64;
            self.checksums
                .push(SALT.checksum(index, crc32c::crc32c(bytes)));
            self.file.append(bytes)?;
            self.chunk = Rows::new(self.chunk.width());
        }
        Ok(())
    }

    /// The table, to be read.
    ///
    /// # Errors
    /// [`crate::error::Error::Io`].
    pub fn finish(mut self) -> Result<Rows<T>> {
        self.flush()?;
        let shape = Shape {
            rows: self.rows,
            ..self.chunk.shape()
        };
        if self.rows == 0 {
            return Ok(self.chunk);
        }
        let map = Map::of_file(&self.file.finish()?, NAME)?;
        if map.bytes().len() != shape.bytes() {
            return Err(crate::error::Error::input(
                "the temporary file of vectors has not the length that was written",
            ));
        }
        let sums = Arc::new(Sums::owned(&self.checksums));
        let blocks = Blocks::new(map, "vectors".to_owned(), SALT, 0, shape, sums, 0);
        Ok(Rows::stored(Arc::new(blocks)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spooled_table_is_the_same_as_one_in_memory_and_can_grow() {
        for (width, count) in [(3, 0), (3, 1), (200, 700), (64, 1024)] {
            let row = |i: usize| {
                (0..width)
                    .map(|j| (i * width + j) as f32)
                    .collect::<Vec<_>>()
            };
            let (mut spool, mut rows) = (Spool::new(width).unwrap(), Rows::new(width));
            for i in 0..count {
                spool.push(&row(i)).unwrap();
                rows.push(&row(i)).unwrap();
            }
            let mut spooled = spool.finish().unwrap();
            assert_eq!(spooled.shape(), rows.shape());
            assert_eq!(spooled.to_vec().unwrap(), rows.to_vec().unwrap());
            let before = spooled.clone();
            spooled.push(&row(count)).unwrap();
            assert_eq!(spooled.row(count).unwrap(), row(count));
            assert_eq!(before.to_vec().unwrap(), rows.to_vec().unwrap());
        }
    }
}
