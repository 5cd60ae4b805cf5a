//! One section of a file as blocks, each verified when it is first touched.
//!
//! Knows bytes and checksums only. A race on the first touch costs a second check, never an unverified byte.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::map::{Huge, Map};
use super::shape::Shape;
use super::sums::{Salt, Sums};
use crate::error::{Damage, Read};
use crate::planted::{Bug, planted};

/// The blocks of a section.
pub struct Blocks {
    map: Map,
    section: String,
    salt: Salt,
    /// First byte in the map, and in the file.
    start: usize,
    offset: usize,
    length: usize,
    shape: Shape,
    sums: Arc<Sums>,
    /// Place of the first block's checksum.
    first_sum: usize,
    verified: Vec<AtomicU64>,
}

impl Blocks {
    /// A view of a section at `offset`, whose place inside the file the caller has checked, as that of its checksums.
    pub fn new(
        map: Map,
        section: String,
        salt: Salt,
        offset: usize,
        shape: Shape,
        sums: Arc<Sums>,
        first_sum: usize,
    ) -> Self {
        let words = shape.blocks().div_ceil(64);
        Blocks {
            map,
            section,
            salt,
            start: offset,
            offset,
            length: shape.bytes(),
            shape,
            sums,
            first_sum,
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// How the rows lie in the section.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The same section in memory of its own.
    pub fn in_memory(&self) -> Self {
        let bytes = &self.map.bytes()[self.start..self.start + self.length];
        Blocks {
            map: Map::owned(bytes, self.map.name()),
            section: self.section.clone(),
            start: 0,
            sums: self.sums.clone(),
            verified: self.verified.iter().map(|_| AtomicU64::new(0)).collect(),
            ..*self
        }
    }

    /// The huge pages that the section lies in, and where, if all its blocks were verified.
    pub fn at_hand(&self) -> Option<(Arc<Huge>, usize)> {
        let all = (0..self.count()).all(|index| self.touched(index));
        let huge = self.map.huge().filter(|_| all)?;
        Some((huge.clone(), self.start))
    }

    /// Says that rows will be read here and there.
    pub fn read_at_random(&self) {
        self.map.random(self.start, self.length);
    }

    /// First byte of the section in its file.
    pub fn offset(&self) -> usize {
        self.offset
    }

    /// Number of blocks.
    pub fn count(&self) -> usize {
        self.shape.blocks()
    }

    fn range(&self, index: usize) -> (usize, usize) {
        let size = self.shape.block_bytes();
        let start = index * size;
        (self.start + start, size.min(self.length - start))
    }

    #[inline(always)]
    fn touched(&self, index: usize) -> bool {
        self.verified[index >> 6].load(Ordering::Acquire) >> (index & 63) & 1 == 1
    }

    /// The bytes of rows, at least one, if they are there and their blocks were verified already.
    #[inline(always)]
    pub fn rows_at_hand(&self, first: usize, end: usize) -> Option<&[u8]> {
        let shift = self.shape.shift;
        if end > self.shape.rows {
            return None;
        }
        let blocks = first >> shift..=(end - 1) >> shift;
        let ready = blocks.into_iter().all(|index| self.touched(index));
        ready.then(|| self.bytes(first, end))
    }

    /// The bytes of rows, at least one; their blocks are verified.
    ///
    /// # Errors
    /// The damage, if a checksum does not match, or if what named the rows names more than there are.
    #[inline(always)]
    pub fn rows(&self, first: usize, end: usize) -> Read<&[u8]> {
        let shift = self.shape.shift;
        if end > self.shape.rows {
            return Err(self.beyond(end));
        }
        for index in first >> shift..=(end - 1) >> shift {
            if !self.touched(index) {
                self.verify(index)?;
            }
        }
        Ok(self.bytes(first, end))
    }

    #[inline(always)]
    fn bytes(&self, first: usize, end: usize) -> &[u8] {
        let row = self.shape.row_bytes();
        &self.map.bytes()[self.start + first * row..self.start + end * row]
    }

    /// Reads a block and compares its checksum, whether or not that was done before.
    ///
    /// # Errors
    /// The damage, if the checksum does not match.
    #[cold]
    pub fn verify(&self, index: usize) -> Read<()> {
        let (start, length) = self.range(index);
        self.map.will_need(start, length);
        let bytes = &self.map.bytes()[start..start + length];
        let sum = self.salt.checksum(index as u64, crc32c::crc32c(bytes));
        if sum != self.sums.get(self.first_sum + index)? && !planted(Bug::ChecksumIgnored) {
            // It may have been sound when it was first touched.
            self.verified[index >> 6].fetch_and(!(1 << (index & 63)), Ordering::AcqRel);
            let start = self.offset + (start - self.start);
            return Err(self.damage(start as u64, "the checksum of this block does not match"));
        }
        self.verified[index >> 6].fetch_or(1 << (index & 63), Ordering::AcqRel);
        Ok(())
    }

    #[cold]
    fn beyond(&self, end: usize) -> Box<Damage> {
        let rows = self.shape.rows;
        let problem = format!("row {} is named where there are {rows}", end - 1);
        self.damage(self.offset as u64, &problem)
    }

    /// Damage of this section at a byte of the file.
    pub fn damage(&self, offset: u64, problem: &str) -> Box<Damage> {
        Box::new(Damage {
            file: self.map.name().to_owned(),
            section: self.section.clone(),
            offset,
            problem: problem.to_owned(),
        })
    }
}
