//! Checksums: CRC-32C of blocks, salted by file, section and place, and of pieces of the list that these make.
//!
//! The list is verified piece by piece when it is first read, so that opening a file does not read all of it.

use std::sync::atomic::{AtomicU64, Ordering};

use super::map::Map;
use crate::error::{Damage, Read};

/// Checksums of blocks that have one checksum together.
pub const PIECE: usize = 16_384;

/// What a block's checksum is taken over besides its bytes: a block that was copied from another place does not pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Salt {
    /// The file's.
    pub id: [u8; 16],
    /// The section's kind.
    pub kind: u32,
    /// Its number among its kind.
    pub number: u32,
}

impl Salt {
    /// Of the pieces of the list.
    pub fn of_list(id: [u8; 16]) -> Self {
        Salt {
            id,
            kind: u32::MAX,
            number: 0,
        }
    }

    /// The checksum of a block whose bytes alone have the CRC-32C `plain`.
    pub fn checksum(self, index: u64, plain: u32) -> u32 {
        let mut bytes = [0; 36];
        bytes[..16].copy_from_slice(&self.id);
        bytes[16..20].copy_from_slice(&self.kind.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.number.to_le_bytes());
        bytes[24..32].copy_from_slice(&index.to_le_bytes());
        bytes[32..].copy_from_slice(&plain.to_le_bytes());
        crc32c::crc32c(&bytes)
    }
}

/// The checksums of all blocks of a file.
pub struct Sums {
    map: Map,
    id: [u8; 16],
    start: usize,
    count: usize,
    pieces: Vec<u32>,
    verified: Vec<AtomicU64>,
}

impl Sums {
    /// A list of `count` checksums at `start`, whose place in the file the caller has checked; `pieces` has the checksum
    /// of each of its pieces.
    pub fn stored(map: Map, id: [u8; 16], start: usize, count: usize, pieces: Vec<u32>) -> Self {
        let words = pieces.len().div_ceil(64);
        Sums {
            map,
            id,
            start,
            count,
            pieces,
            verified: (0..words).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// A list of this process.
    pub fn owned(sums: &[u32]) -> Self {
        let bytes = sums.iter().flat_map(|sum| sum.to_le_bytes());
        let mut list = Self::stored(
            Map::owned(&bytes.collect::<Vec<_>>(), ""),
            [0; 16],
            0,
            sums.len(),
            vec![0; sums.len().div_ceil(PIECE)],
        );
        list.verified = list
            .verified
            .iter()
            .map(|_| AtomicU64::new(u64::MAX))
            .collect();
        list
    }

    /// Pieces of the list.
    pub fn pieces(&self) -> usize {
        self.pieces.len()
    }

    /// The checksum of a block.
    ///
    /// # Errors
    /// Damage of the list.
    pub fn get(&self, index: usize) -> Read<u32> {
        let piece = index / PIECE;
        if self.verified[piece >> 6].load(Ordering::Acquire) >> (piece & 63) & 1 == 0 {
            self.verify(piece)?;
        }
        let at = self.start + 4 * index;
        Ok(word(&self.map.bytes()[at..at + 4]))
    }

    /// Reads a piece and compares its checksum.
    ///
    /// # Errors
    /// Damage of the list.
    pub fn verify(&self, piece: usize) -> Read<()> {
        let start = self.start + 4 * PIECE * piece;
        let end = (start + 4 * PIECE).min(self.start + 4 * self.count);
        let plain = crc32c::crc32c(&self.map.bytes()[start..end]);
        if Salt::of_list(self.id).checksum(piece as u64, plain) != self.pieces[piece] {
            self.verified[piece >> 6].fetch_and(!(1 << (piece & 63)), Ordering::AcqRel);
            return Err(Box::new(Damage {
                file: self.map.name().to_owned(),
                section: "checksums".to_owned(),
                offset: start as u64,
                problem: "the checksum of these checksums does not match".to_owned(),
            }));
        }
        self.verified[piece >> 6].fetch_or(1 << (piece & 63), Ordering::AcqRel);
        Ok(())
    }
}

fn word(bytes: &[u8]) -> u32 {
    let mut four = [0; 4];
    four.copy_from_slice(bytes);
    u32::from_le_bytes(four)
}
