//! Files that are wrong in ways that a fuzzer finds: any bytes, or whole files whose sections say what they must not. For
//! tests only.

use std::sync::atomic::AtomicUsize;

use super::header::{BLOCKS, CHECKSUM, ID, LENGTH, ROOT, SECTIONS, TABLE};
use super::map::Map;
use super::shape::Shape;
use super::{ENTRY, PAGE, Reader, Section, to_bytes};
use crate::error::Result;
use crate::random::Stream;

/// Bytes that were ever taken in huge pages, which no allocator counts.
pub static MAPPED: AtomicUsize = AtomicUsize::new(0);

/// A file as sections that can be changed.
#[derive(Clone)]
pub struct Loose {
    sections: Vec<(u32, u32, Shape, Vec<u8>)>,
}

impl Loose {
    /// The sections of a file that is sound.
    ///
    /// # Errors
    /// It is not.
    pub fn of(bytes: &[u8]) -> Result<Self> {
        let reader = Reader::new(Map::owned(bytes, "the file"))?;
        let sections = reader.sections.iter().map(|(kind, number, blocks)| {
            let start = blocks.offset();
            let shape = blocks.shape();
            let own = bytes[start..start + shape.bytes()].to_vec();
            (*kind, *number, shape, own)
        });
        Ok(Loose {
            sections: sections.collect(),
        })
    }

    /// A file with right checksums throughout.
    pub fn to_bytes(&self) -> Vec<u8> {
        let sections = self.sections.iter().map(|(kind, number, shape, bytes)| {
            let shape = *shape;
            Section::new(*kind, *number, shape, move |index| {
                let start = index * shape.block_bytes();
                Ok(&bytes[start..(start + shape.block_bytes()).min(bytes.len())])
            })
        });
        let sections: Vec<Section<'_>> = sections.collect();
        to_bytes(&sections, &|| Ok(())).expect("nothing of it comes from a file")
    }

    /// Changes something.
    pub fn change(&mut self, stream: &mut Stream) {
        let below = |stream: &mut Stream, n: usize| stream.below(n.max(1) as u64) as usize;
        if self.sections.is_empty() {
            return;
        }
        let at = below(stream, self.sections.len());
        match stream.below(16) {
            0 => drop(self.sections.remove(at)),
            1 => {
                let copy = self.sections[at].clone();
                self.sections.push(copy);
            }
            2 => self.sections[at].0 = stream.below(45) as u32,
            3 => self.sections[at].1 = stream.below(4) as u32,
            4 | 5 => {
                let shape = &mut self.sections[at].2;
                let field = match stream.below(4) {
                    0 => &mut shape.rows,
                    1 => &mut shape.width,
                    2 => &mut shape.stride,
                    _ => &mut shape.element,
                };
                *field = match stream.below(5) {
                    0 => 0,
                    1 => *field + 1,
                    2 => field.saturating_sub(1),
                    3 => *field * 2,
                    _ => stream.below(300) as usize,
                };
                let fits = shape.stride >= 1 && matches!(shape.element, 1 | 2 | 4 | 8);
                if !fits || shape.bytes() > 1 << 20 {
                    shape.stride = shape.stride.max(1);
                    shape.element = 4;
                    shape.rows %= 64;
                }
                let bytes = self.sections[at].2.bytes();
                self.sections[at].3.resize(bytes, 0);
            }
            6 => {
                let other = below(stream, self.sections.len());
                self.sections.swap(at, other);
            }
            _ => {
                let element = self.sections[at].2.element;
                let bytes = &mut self.sections[at].3;
                if bytes.len() < element {
                    return;
                }
                let place = below(stream, bytes.len() / element) * element;
                let mut wide = [0; 8];
                wide[..element].copy_from_slice(&bytes[place..place + element]);
                let value = u64::from_le_bytes(wide);
                let value = interesting(value, stream);
                bytes[place..place + element].copy_from_slice(&value.to_le_bytes()[..element]);
            }
        }
    }
}

fn interesting(value: u64, stream: &mut Stream) -> u64 {
    match stream.below(12) {
        0 => 0,
        1 => 1,
        2 => u64::MAX,
        3 => u64::MAX - 1,
        4 => value.wrapping_add(1),
        5 => value.wrapping_sub(1),
        6 => value ^ 1 << stream.below(64),
        7 => 0x7f80_0000_7f80_0000,
        8 => 0x7ff8_0000_7fc0_0000,
        9 => stream.below(100),
        10 => 1 << stream.below(64),
        _ => stream.next_u64(),
    }
}

/// Some bytes with something changed, and no checksum of it.
pub fn spoil(bytes: &[u8], stream: &mut Stream) -> Vec<u8> {
    let mut spoiled = bytes.to_vec();
    let below = |stream: &mut Stream, n: usize| stream.below(n.max(1) as u64) as usize;
    for _ in 0..=stream.below(3) {
        let length = spoiled.len();
        if length == 0 {
            break;
        }
        let at = below(stream, length);
        match stream.below(6) {
            0 => spoiled[at] ^= 1 << stream.below(8),
            1 => spoiled[at] = stream.below(256) as u8,
            2 => spoiled.truncate(at),
            3 => {
                let size = below(stream, 64.min(length - at));
                let from = below(stream, length - size);
                spoiled.copy_within(from..from + size, at);
            }
            4 => spoiled.extend((0..stream.below(100)).map(|i| i as u8)),
            _ => {
                let end = (at + 8).min(length);
                let value = interesting(0, stream).to_le_bytes();
                spoiled[at..end].copy_from_slice(&value[..end - at]);
            }
        }
    }
    spoiled
}

/// A file with something of its header or table changed, under a right checksum and root.
pub fn lie(bytes: &[u8], stream: &mut Stream) -> Vec<u8> {
    let mut lying = bytes.to_vec();
    if lying.len() < PAGE {
        return lying;
    }
    let word = |bytes: &[u8], at: usize| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[at..at + 8]);
        u64::from_le_bytes(eight)
    };
    let put = |bytes: &mut [u8], at: usize, size: usize, value: u64| {
        bytes[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
    };
    let table = word(&lying, TABLE) as usize;
    let count = (word(&lying, SECTIONS) & 0xffff_ffff) as usize;
    let entries = count * ENTRY;
    for _ in 0..=stream.below(2) {
        let fits = table
            .checked_add(entries)
            .is_some_and(|end| end <= lying.len());
        if stream.below(4) == 0 || !fits || count == 0 {
            let fields = [(SECTIONS, 4), (TABLE, 8), (LENGTH, 8), (BLOCKS, 8), (ID, 8)];
            let (at, size) = fields[stream.below(fields.len() as u64) as usize];
            let value = interesting(word(&lying, at), stream);
            put(&mut lying, at, size, value);
        } else {
            let fields = [
                (0, 4),
                (4, 4),
                (8, 8),
                (16, 8),
                (24, 4),
                (28, 4),
                (32, 4),
                (36, 4),
                (40, 8),
            ];
            let (at, size) = fields[stream.below(fields.len() as u64) as usize];
            let at = table + ENTRY * stream.below(count as u64) as usize + at;
            let value = interesting(word(&lying, at), stream);
            put(&mut lying, at, size, value);
        }
    }
    let table = word(&lying, TABLE) as usize;
    let count = (word(&lying, SECTIONS) & 0xffff_ffff) as usize;
    let blocks = word(&lying, BLOCKS) as usize;
    let sums = table
        .saturating_add(count.saturating_mul(ENTRY))
        .saturating_add(blocks.div_ceil(super::sums::PIECE).saturating_mul(4));
    if table <= sums && sums <= lying.len() {
        let mut id = [0; 16];
        id.copy_from_slice(&lying[ID..ID + 16]);
        let root = super::root(&id, &lying[table..sums]);
        lying[ROOT..ROOT + 32].copy_from_slice(&root);
    }
    let sum = crc32c::crc32c(&lying[..CHECKSUM]);
    lying[CHECKSUM..PAGE].copy_from_slice(&sum.to_le_bytes());
    lying
}
