//! Tables of rows to sections of a file and back. Knows how rows lie there, and nothing of what they mean.

use std::sync::Arc;

use bytemuck::Pod;

use crate::chunks::Rows;
use crate::error::Result;
use crate::file::blocks::Blocks;
use crate::file::shape::Shape;
use crate::file::{Reader, Section, kind};

/// Bytes of a page of the system.
const PAGE_BYTES: usize = 4096;

/// A table as a section to be written.
pub fn section<T: Pod>(kind: u32, number: u32, rows: &Rows<T>) -> Section<'_> {
    let shape = in_file(kind, rows.shape());
    Section::new(kind, number, shape, move |block| {
        rows.block_bytes(shape, block)
    })
}

/// Rows of sections of other files, which are as wide, in their order as a section to be written; they are read block by block.
pub fn gathered<'a, T: Pod>(
    kind: u32,
    number: u32,
    width: usize,
    sources: &'a [(Arc<Blocks>, Vec<u64>)],
) -> Section<'a> {
    let mut ends = Vec::with_capacity(sources.len());
    let mut count = 0;
    for (_, wanted) in sources {
        count += wanted.len();
        ends.push(count);
    }
    let shape = Shape {
        rows: count,
        ..in_file(kind, Rows::<T>::new(width).shape())
    };
    Section::copied(kind, number, shape, move |block, room| {
        let first = block << shape.shift;
        for row in first..(first + (1 << shape.shift)).min(count) {
            let source = ends.partition_point(|&end| end <= row);
            let (blocks, wanted) = &sources[source];
            let row = wanted[row + wanted.len() - ends[source]] as usize;
            room.extend_from_slice(blocks.rows(row, row + 1)?);
        }
        Ok(())
    })
}

/// How rows lie in a file: those that a walk reads here and there in blocks of a page, so that little is read and checked
/// for one of them.
fn in_file(of: u32, shape: Shape) -> Shape {
    match of {
        kind::VECTORS | kind::NODES | kind::FRONTS => shape.in_blocks_of(PAGE_BYTES),
        _ => shape,
    }
}

/// The rows of a section, of at most so many elements, which lie as this version would lay them: a shape of its own making
/// would let a small file ask for any amount of memory.
///
/// # Errors
/// [`crate::error::Error::Corrupt`].
pub fn table_within<T: Pod>(
    reader: &Reader,
    kind: u32,
    number: u32,
    most: usize,
) -> Result<Rows<T>> {
    let blocks = blocks_within::<T>(reader, kind, number, most)?;
    if matches!(kind, kind::NODES | kind::VECTORS) {
        blocks.read_at_random();
    }
    Ok(Rows::stored(blocks))
}

/// The same section as blocks.
///
/// # Errors
/// [`crate::error::Error::Corrupt`].
pub fn blocks_within<T: Pod>(
    reader: &Reader,
    kind: u32,
    number: u32,
    most: usize,
) -> Result<Arc<Blocks>> {
    let blocks = reader.section(kind, number, size_of::<T>())?;
    let shape = blocks.shape();
    let ours = Rows::<T>::new(shape.width.min(most));
    let ours = Shape {
        rows: shape.rows,
        ..in_file(kind, ours.shape())
    };
    if shape != ours {
        return Err(reader.damage(kind, "its rows lie in another way than this format has"));
    }
    Ok(blocks)
}
