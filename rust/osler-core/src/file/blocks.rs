//! One section of a file as blocks, each verified when it is first touched.
//!
//! Knows bytes and checksums only. A race on the first touch costs a second check, never an unverified byte.

use std::sync::atomic::{AtomicU64, Ordering};

use std::sync::Arc;

use super::map::{Huge, Map};
use super::shape::Shape;
use crate::error::{Damage, Read};

/// The blocks of a section.
pub struct Blocks {
    map: Map,
    section: String,
    salt: [u8; 8],
    /// First byte in the map, and in the file.
    start: usize,
    offset: usize,
    length: usize,
    shape: Shape,
    checksums: Vec<u32>,
    verified: Vec<AtomicU64>,
}

impl Blocks {
    /// A view of `length` bytes at `offset`, whose place inside the file the caller has checked.
    pub fn new(
        map: Map,
        section: String,
        salt: [u8; 8],
        offset: usize,
        shape: Shape,
        checksums: Vec<u32>,
    ) -> Self {
        let verified = (0..checksums.len().div_ceil(64))
            .map(|_| AtomicU64::new(0))
            .collect();
        Blocks {
            map,
            section,
            salt,
            start: offset,
            offset,
            length: shape.bytes(),
            shape,
            checksums,
            verified,
        }
    }

    /// How the rows lie in the section.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The same section in memory of its own.
    pub fn in_memory(&self) -> Self {
        let bytes = &self.map.bytes()[self.start..self.start + self.length];
        let verified = self.verified.iter();
        Blocks {
            map: Map::owned(bytes, self.map.name()),
            section: self.section.clone(),
            start: 0,
            checksums: self.checksums.clone(),
            verified: verified
                .map(|word| AtomicU64::new(word.load(Ordering::Acquire)))
                .collect(),
            ..*self
        }
    }

    /// The huge pages that the section lies in, and where, if all its blocks were verified.
    pub fn at_hand(&self) -> Option<(Arc<Huge>, usize)> {
        let all = (0..self.count()).all(|index| self.touched(index).is_some());
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
        self.checksums.len()
    }

    fn range(&self, index: usize) -> (usize, usize) {
        let size = self.shape.block_bytes();
        let start = index * size;
        (self.start + start, size.min(self.length - start))
    }

    /// The bytes of a block, if they were verified already.
    #[inline]
    pub fn touched(&self, index: usize) -> Option<&[u8]> {
        if self.verified[index >> 6].load(Ordering::Acquire) >> (index & 63) & 1 == 0 {
            return None;
        }
        let (start, length) = self.range(index);
        Some(&self.map.bytes()[start..start + length])
    }

    /// The bytes of a block, verified.
    ///
    /// # Errors
    /// The damage, if the checksum does not match.
    #[inline]
    pub fn block(&self, index: usize) -> Read<&[u8]> {
        match self.touched(index) {
            Some(bytes) => Ok(bytes),
            None => self.verify(index),
        }
    }

    /// Reads a block and compares its checksum, whether or not that was done before.
    ///
    /// # Errors
    /// The damage, if the checksum does not match.
    #[cold]
    pub fn verify(&self, index: usize) -> Read<&[u8]> {
        let (start, length) = self.range(index);
        self.map.will_need(start, length);
        let bytes = &self.map.bytes()[start..start + length];
        if checksum(self.salt, index as u64, bytes) != self.checksums[index] {
            let start = self.offset + (start - self.start);
            return Err(self.damage(start as u64, "the checksum of this block does not match"));
        }
        self.verified[index >> 6].fetch_or(1 << (index & 63), Ordering::AcqRel);
        Ok(bytes)
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

/// CRC-32C of a block, salted by section and block number so that a block copied from elsewhere does not pass.
pub fn checksum(salt: [u8; 8], index: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(
        crc32c::crc32c_append(crc32c::crc32c(&salt), &index.to_le_bytes()),
        bytes,
    )
}
