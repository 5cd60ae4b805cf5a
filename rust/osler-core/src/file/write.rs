//! Writes a file of sections once, in order.

use std::path::Path;

use super::header::{BLOCKS, CHECKSUM, ID, LENGTH, ROOT, SECTIONS, TABLE, VERSION};
use super::shape::Shape;
use super::sums::{PIECE, Salt};
use super::{ENTRY, MAGIC, NEWEST, PAGE};
use crate::error::{Read, Result};
use crate::fs::{self, NewFile, Storage};

/// A section to be written: its kind, its number among its kind, and its rows.
pub struct Section<'a> {
    kind: u32,
    number: u32,
    shape: Shape,
    blocks: Box<Fill<'a>>,
}

/// Gives the bytes of a block: where they lie, or none after writing them into the empty room.
type Fill<'a> = dyn Fn(usize, &mut Vec<u8>) -> Read<Option<&'a [u8]>> + 'a;

impl<'a> Section<'a> {
    /// A section whose rows lie as `shape` says; `blocks` gives the bytes of each block, and of the last those up to
    /// the end of the last row.
    pub fn new(
        kind: u32,
        number: u32,
        shape: Shape,
        blocks: impl Fn(usize) -> Read<&'a [u8]> + 'a,
    ) -> Self {
        Section {
            kind,
            number,
            shape,
            blocks: Box::new(move |index, _| blocks(index).map(Some)),
        }
    }

    /// The same of rows that `fill` copies together, block by block, so that they need not be in memory at once.
    pub fn copied(
        kind: u32,
        number: u32,
        shape: Shape,
        fill: impl Fn(usize, &mut Vec<u8>) -> Read<()> + 'a,
    ) -> Self {
        Section {
            kind,
            number,
            shape,
            blocks: Box::new(move |index, room| fill(index, room).map(|()| None)),
        }
    }
}

/// Writes a whole file into `sink`, in order, and returns the header page that belongs at its start.
///
/// # Errors
/// What the sink or a damaged source reports.
fn write(
    sections: &[Section<'_>],
    check: &dyn Fn() -> Result<()>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let zeros = [0_u8; PAGE];
    sink(&zeros)?;
    let mut offset = PAGE;
    let mut table = Vec::with_capacity(sections.len() * ENTRY);
    let mut plain = Vec::new();
    let mut room = Vec::new();
    for section in sections {
        let shape = section.shape;
        for field in [section.kind, section.number] {
            table.extend(field.to_le_bytes());
        }
        for field in [offset, shape.rows] {
            table.extend((field as u64).to_le_bytes());
        }
        for field in [
            shape.width as u32,
            shape.stride as u32,
            shape.element as u32,
            shape.shift,
        ] {
            table.extend(field.to_le_bytes());
        }
        table.extend((plain.len() as u64).to_le_bytes());
        for index in 0..shape.blocks() {
            check()?;
            room.clear();
            let bytes = (section.blocks)(index, &mut room)?.unwrap_or(&room);
            plain.push(crc32c::crc32c(bytes));
            sink(bytes)?;
        }
        let end = (offset + shape.bytes()).next_multiple_of(PAGE);
        sink(&zeros[..end - offset - shape.bytes()])?;
        offset = end;
    }
    // By content alone, so that equal input gives an equal file.
    let mut hasher = blake3::Hasher::new();
    hasher.update(&table);
    plain.iter().for_each(|sum| {
        hasher.update(&sum.to_le_bytes());
    });
    let mut id = [0; 16];
    id.copy_from_slice(&hasher.finalize().as_bytes()[..16]);

    let mut sums = Vec::with_capacity(4 * plain.len());
    let mut next = plain.iter();
    for section in sections {
        let salt = Salt {
            id,
            kind: section.kind,
            number: section.number,
        };
        let blocks = (0_u64..).zip(next.by_ref().take(section.shape.blocks()));
        sums.extend(blocks.flat_map(|(index, &sum)| salt.checksum(index, sum).to_le_bytes()));
    }
    for (index, piece) in (0_u64..).zip(sums.chunks(4 * PIECE)) {
        let sum = Salt::of_list(id).checksum(index, crc32c::crc32c(piece));
        table.extend(sum.to_le_bytes());
    }
    sink(&table)?;
    sink(&sums)?;

    let mut header = zeros.to_vec();
    let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &MAGIC);
    put(VERSION, &NEWEST.to_le_bytes());
    put(SECTIONS, &(sections.len() as u32).to_le_bytes());
    put(TABLE, &(offset as u64).to_le_bytes());
    let length = offset + table.len() + sums.len();
    put(LENGTH, &(length as u64).to_le_bytes());
    put(ROOT, &super::root(&id, &table));
    put(ID, &id);
    put(BLOCKS, &(plain.len() as u64).to_le_bytes());
    let sum = crc32c::crc32c(&header[..CHECKSUM]);
    header[CHECKSUM..].copy_from_slice(&sum.to_le_bytes());
    Ok(header)
}

/// What was written, as those who list files know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Written {
    /// Length of the file.
    pub bytes: u64,
    /// The hash in its header.
    pub root: [u8; 32],
}

/// Writes a new file under the name that it has from the start, and syncs it; its name is not durable yet.
///
/// # Errors
/// [`crate::error::Error::Io`]; what there is of the file is left to the caller.
pub fn create(
    storage: &dyn Storage,
    path: &Path,
    sections: &[Section<'_>],
    check: &dyn Fn() -> Result<()>,
) -> Result<Written> {
    let mut file = NewFile::create(storage, path, path)?;
    let mut bytes = 0;
    let header = write(sections, check, &mut |more| {
        bytes += more.len() as u64;
        file.append(more)
    })?;
    file.write_start(&header)?;
    file.finish()?;
    let mut root = [0; 32];
    root.copy_from_slice(&header[ROOT..ROOT + 32]);
    Ok(Written { bytes, root })
}

/// Writes a file, asking `check` once a block whether to go on: complete and synced under another name first, then renamed.
///
/// # Errors
/// [`crate::error::Error::Io`]; the target is then as it was, unless only the last sync failed.
pub fn save(
    storage: &dyn Storage,
    path: &Path,
    sections: &[Section<'_>],
    check: &dyn Fn() -> Result<()>,
) -> Result<()> {
    fs::replace(storage, path, &mut |file| {
        let header = write(sections, check, &mut |bytes| file.append(bytes))?;
        file.write_start(&header)
    })
}

/// The bytes that [`save`] would write.
///
/// # Errors
/// [`crate::error::Error::Corrupt`] if the sections come from a damaged file.
pub fn to_bytes(sections: &[Section<'_>], check: &dyn Fn() -> Result<()>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let header = write(sections, check, &mut |more| {
        bytes.extend_from_slice(more);
        Ok(())
    })?;
    bytes[..PAGE].copy_from_slice(&header);
    Ok(bytes)
}
