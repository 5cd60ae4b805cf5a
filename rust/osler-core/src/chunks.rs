//! Rows of equal width in chunks that are never edited while a reader can see them.
//!
//! A chunk is shared by all snapshots that hold it and copied when a writer changes it; or it is a block of a file.
//! Allocates only when rows are added or changed.

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

use crate::error::{Damage, Read};
use crate::file::blocks::Blocks;
use crate::file::map::{HUGE_FROM_BYTES, Huge, HugeMut, Line};
use crate::file::shape::Shape;

/// A chunk is at most this long, unless one row is longer; also the unit of checksums.
pub const CHUNK_BYTES: usize = 64 << 10;

/// Rows at least this long start on a cache line.
const ALIGN_FROM_BYTES: usize = 256;

/// Chunks are gathered when at least one in so many is memory of its own.
const GATHER_SHARE: usize = 4;

#[derive(Clone)]
enum Chunk {
    Owned(Arc<[Line]>),
    /// At an offset of memory that many chunks share.
    Gathered(Arc<Huge>, usize),
    Stored(Arc<Blocks>, usize),
}

/// Rows that lie one after another.
#[derive(Clone)]
struct Flat {
    memory: Arc<Huge>,
    /// Where the first row begins.
    start: usize,
    rows: usize,
}

/// A growing table of rows of `width` elements; cloning is cheap and gives a snapshot.
#[derive(Clone)]
pub struct Rows<T> {
    width: usize,
    stride: usize,
    shift: u32,
    len: usize,
    chunks: Vec<Chunk>,
    /// A way to the first rows without the list of chunks.
    flat: Option<Flat>,
    element: PhantomData<T>,
}

impl<T: Pod> Rows<T> {
    /// An empty table in chunks of the usual size.
    pub fn new(width: usize) -> Self {
        Self::with_chunk_bytes(width, CHUNK_BYTES)
    }

    /// An empty table whose chunks are at most `bytes` long, for rows that change often.
    pub fn with_chunk_bytes(width: usize, bytes: usize) -> Self {
        let size = size_of::<T>();
        let stride = if width * size >= ALIGN_FROM_BYTES {
            (width * size).next_multiple_of(Line::BYTES) / size
        } else {
            width.max(1)
        };
        let rows = (bytes / (stride * size)).max(1);
        Rows {
            width,
            stride,
            shift: rows.ilog2(),
            len: 0,
            chunks: Vec::new(),
            flat: None,
            element: PhantomData,
        }
    }

    /// A table over a section of a file.
    pub fn stored(blocks: Arc<Blocks>) -> Self {
        let Shape {
            rows,
            width,
            stride,
            shift,
            ..
        } = blocks.shape();
        let chunks = (0..blocks.count())
            .map(|i| Chunk::Stored(blocks.clone(), i))
            .collect();
        let flat = blocks.at_hand().map(|(memory, start)| Flat {
            memory,
            start,
            rows,
        });
        Rows {
            width,
            stride,
            shift,
            len: rows,
            chunks,
            flat,
            element: PhantomData,
        }
    }

    /// Rows in the table.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Elements of a row.
    pub fn width(&self) -> usize {
        self.width
    }

    /// How the rows lie in a file.
    pub fn shape(&self) -> Shape {
        Shape {
            rows: self.len,
            width: self.width,
            stride: self.stride,
            element: size_of::<T>(),
            shift: self.shift,
        }
    }

    /// Bytes that the rows take.
    pub fn bytes(&self) -> usize {
        self.chunks.len() * self.shape().block_bytes()
    }

    fn per_chunk(&self) -> usize {
        1 << self.shift
    }

    #[inline(always)]
    fn chunk(&self, index: usize) -> Read<&[T]> {
        match &self.chunks[index] {
            Chunk::Gathered(huge, offset) => Ok(self.gathered(huge, *offset)),
            Chunk::Owned(lines) => Ok(elements(bytemuck::cast_slice(lines))),
            Chunk::Stored(blocks, i) => blocks.block(*i).map(elements),
        }
    }

    /// The table for many reads: what leads to its rows is looked up once.
    pub fn view(&self) -> View<'_, T> {
        let flat = self.flat.as_ref().map_or(&[][..], |flat| {
            let bytes = flat.rows * self.stride * size_of::<T>();
            // The last row of a file ends with its own elements.
            let whole = &flat.memory.bytes()[flat.start..];
            elements(&whole[..bytes.min(whole.len())])
        });
        View {
            table: self,
            flat,
            rows: self.flat.as_ref().map_or(0, |flat| flat.rows),
            stride: self.stride,
            width: self.width,
        }
    }

    #[inline(always)]
    fn flat_row(&self, row: usize) -> Option<&[T]> {
        let flat = self.flat.as_ref()?;
        if row >= flat.rows {
            return None;
        }
        let start = flat.start + row * self.stride * size_of::<T>();
        let bytes = &flat.memory.bytes()[start..start + self.width * size_of::<T>()];
        Some(bytemuck::cast_slice(bytes))
    }

    #[inline(always)]
    fn gathered<'a>(&self, huge: &'a Huge, offset: usize) -> &'a [T] {
        elements(&huge.bytes()[offset..offset + self.shape().block_bytes()])
    }

    /// Moves all full chunks into one piece of huge pages, if many are memory of their own: a walk touches rows at random,
    /// and without huge pages most of those touches miss the processor's table of pages as well.
    pub fn gather(&mut self) {
        let size = self.shape().block_bytes();
        let Some(last) = self.chunks.len().checked_sub(1) else {
            return;
        };
        // The last chunk grows, so it stays as it is; one that lies in a file stays there.
        let mut own = 0;
        let mut movable = 0;
        for chunk in &self.chunks[..last] {
            own += usize::from(matches!(chunk, Chunk::Owned(_)));
            movable += usize::from(!matches!(chunk, Chunk::Stored(..)));
        }
        let worth = own * size >= HUGE_FROM_BYTES && own * GATHER_SHARE >= movable;
        if !worth || !size.is_multiple_of(Line::BYTES) {
            return;
        }
        let Some(mut memory) = HugeMut::new(movable * size) else {
            return;
        };
        let mut places = Vec::with_capacity(movable);
        for (index, chunk) in self.chunks[..last].iter_mut().enumerate() {
            let bytes: &[u8] = match chunk {
                Chunk::Owned(lines) => bytemuck::cast_slice(lines),
                Chunk::Gathered(huge, offset) => &huge.bytes()[*offset..],
                Chunk::Stored(..) => continue,
            };
            let offset = places.len() * size;
            memory.bytes_mut()[offset..offset + size].copy_from_slice(&bytes[..size]);
            places.push((index, offset));
            // Given back at once, so that no second copy of a table that was just made is ever held.
            *chunk = Chunk::Owned(Arc::new([]));
        }
        let memory = Arc::new(memory.freeze());
        let in_order = places.len() == last;
        self.flat = in_order.then(|| Flat {
            memory: memory.clone(),
            start: 0,
            rows: last << self.shift,
        });
        for (index, offset) in places {
            self.chunks[index] = Chunk::Gathered(memory.clone(), offset);
        }
    }

    /// One row, which must exist.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    #[inline(always)]
    pub fn row(&self, row: usize) -> Read<&[T]> {
        debug_assert!(row < self.len, "row {row} of {}", self.len);
        if let Some(row) = self.flat_row(row) {
            return Ok(row);
        }
        let chunk = self.chunk(row >> self.shift)?;
        let at = (row & (self.per_chunk() - 1)) * self.stride;
        Ok(&chunk[at..at + self.width])
    }

    /// Damage at a row, whose bytes are what was written but make no sense.
    pub fn damage(&self, row: usize, problem: &str) -> Box<Damage> {
        let at = row & (self.per_chunk() - 1);
        let at = (at * self.stride * size_of::<T>()) as u64;
        match &self.chunks[row >> self.shift] {
            Chunk::Stored(blocks, block) => {
                let start = blocks.offset() + block * self.shape().block_bytes();
                blocks.damage(start as u64 + at, problem)
            }
            Chunk::Owned(_) | Chunk::Gathered(..) => Box::new(Damage {
                file: "the index in memory".to_owned(),
                section: String::new(),
                offset: at,
                problem: problem.to_owned(),
            }),
        }
    }

    /// One row of a table of width 1.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    #[inline(always)]
    pub fn value(&self, row: usize) -> Read<T> {
        self.row(row).map(|row| row[0])
    }

    /// Asks the processor to fetch a row that will be read soon.
    #[inline(always)]
    pub fn prefetch(&self, row: usize) {
        self.prefetch_start(row, self.width);
    }

    /// Asks the processor to fetch the first elements of a row that will be read soon.
    #[inline(always)]
    pub fn prefetch_start(&self, row: usize, elements: usize) {
        if let Some(start) = self.at_hand(row).and_then(|row| row.get(..elements)) {
            osler_kernels::prefetch(start);
        }
    }

    /// A row, unless its block was never verified.
    #[inline(always)]
    fn at_hand(&self, row: usize) -> Option<&[T]> {
        if let Some(row) = self.flat_row(row) {
            return Some(row);
        }
        let chunk: &[T] = match self.chunks.get(row >> self.shift)? {
            Chunk::Gathered(huge, offset) => self.gathered(huge, *offset),
            Chunk::Owned(lines) => elements(bytemuck::cast_slice(lines)),
            Chunk::Stored(blocks, i) => elements(blocks.touched(*i)?),
        };
        let at = (row & (self.per_chunk() - 1)) * self.stride;
        chunk.get(at..at + self.width)
    }

    /// Rows `start..` up to the end of their chunk, as one slice of `stride` elements a row, and their number.
    ///
    /// # Errors
    /// The damage, where the rows lie in a damaged block of a file.
    pub fn run(&self, start: usize) -> Read<(&[T], usize)> {
        let first = start & (self.per_chunk() - 1);
        let count = (self.per_chunk() - first).min(self.len - start);
        let chunk = self.chunk(start >> self.shift)?;
        Ok((
            &chunk[first * self.stride..(first + count) * self.stride],
            count,
        ))
    }

    /// Elements from one row to the next in what [`Rows::run`] returns.
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Adds a row.
    ///
    /// # Errors
    /// The damage, where the last chunk is a damaged block of a file.
    pub fn push(&mut self, row: &[T]) -> Read<()> {
        assert_eq!(row.len(), self.width, "rows of one table have one width");
        if self.len & (self.per_chunk() - 1) == 0 {
            let lines = self.shape().block_bytes().div_ceil(Line::BYTES);
            self.chunks.push(Chunk::Owned(
                std::iter::repeat_n(Line::zeroed(), lines).collect(),
            ));
        }
        self.len += 1;
        self.row_mut(self.len - 1)?.copy_from_slice(row);
        Ok(())
    }

    /// One row, to be changed; its chunk is copied if a snapshot or a file holds it.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn row_mut(&mut self, row: usize) -> Read<&mut [T]> {
        let first = row >> self.shift << self.shift;
        if let Some(flat) = &mut self.flat {
            flat.rows = flat.rows.min(first);
        }
        let block = self.shape().block_bytes();
        let full = block.div_ceil(Line::BYTES);
        let at = (row & (self.per_chunk() - 1)) * self.stride;
        let (width, chunk) = (self.width, &mut self.chunks[row >> self.shift]);
        let bytes = match chunk {
            Chunk::Owned(_) => None,
            Chunk::Gathered(huge, offset) => Some(&huge.bytes()[*offset..*offset + block]),
            Chunk::Stored(blocks, i) => Some(blocks.block(*i)?),
        };
        if let Some(bytes) = bytes {
            let mut lines = vec![Line::zeroed(); full];
            bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..bytes.len()].copy_from_slice(bytes);
            *chunk = Chunk::Owned(lines.into());
        }
        let Chunk::Owned(lines) = chunk else {
            unreachable!("a stored chunk was replaced above")
        };
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(Arc::make_mut(lines));
        let whole = bytes.len() / size_of::<T>() * size_of::<T>();
        Ok(&mut bytemuck::cast_slice_mut::<u8, T>(&mut bytes[..whole])[at..at + width])
    }

    /// The bytes of one block as they are written to a file; the last one ends with the last row.
    ///
    /// # Errors
    /// The damage, where the block comes from a damaged file.
    pub fn block_bytes(&self, index: usize) -> Read<&[u8]> {
        let shape = self.shape();
        let length = shape
            .block_bytes()
            .min(shape.bytes() - index * shape.block_bytes());
        Ok(&bytemuck::cast_slice(self.chunk(index)?)[..length])
    }

    /// Every row's elements, one row after another.
    ///
    /// # Errors
    /// The damage, where a row lies in a damaged block of a file.
    pub fn to_vec(&self) -> Read<Vec<T>> {
        let mut all = Vec::with_capacity(self.len * self.width);
        for row in 0..self.len {
            all.extend_from_slice(self.row(row)?);
        }
        Ok(all)
    }

    /// A table of width 1 from its values.
    pub fn from_values(values: &[T]) -> Self {
        let mut rows = Rows::new(1);
        for value in values {
            rows.push(std::slice::from_ref(value))
                .expect("a table in memory has no damage");
        }
        rows
    }
}

/// A table for many reads; see [`Rows::view`].
pub struct View<'a, T> {
    table: &'a Rows<T>,
    flat: &'a [T],
    rows: usize,
    stride: usize,
    width: usize,
}

impl<'a, T: Pod> View<'a, T> {
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
        self.table.len
    }
}

fn elements<T: Pod>(bytes: &[u8]) -> &[T] {
    bytemuck::cast_slice(&bytes[..bytes.len() / size_of::<T>() * size_of::<T>()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut rows = Rows::<f32>::with_chunk_bytes(3, 24);
        for i in 0..5 {
            rows.push(&[i as f32; 3]).unwrap();
        }
        let before = rows.clone();
        rows.row_mut(1).unwrap()[2] = 9.0;
        rows.push(&[7.0; 3]).unwrap();
        assert_eq!(
            (before.len(), before.row(1).unwrap()),
            (5, &[1.0_f32; 3][..])
        );
        assert_eq!(
            (rows.len(), rows.row(1).unwrap()),
            (6, &[1.0_f32, 1.0, 9.0][..])
        );
    }

    #[test]
    fn long_rows_start_on_a_cache_line() {
        let mut rows = Rows::<u16>::new(130);
        rows.push(&[1; 130]).unwrap();
        rows.push(&[2; 130]).unwrap();
        assert_eq!(rows.stride(), 160);
        assert_eq!(rows.row(1).unwrap().as_ptr() as usize % 64, 0);
    }

    #[test]
    fn runs_cover_all_rows_once() {
        let mut rows = Rows::<u32>::with_chunk_bytes(2, 32);
        for i in 0..11 {
            rows.push(&[i, i]).unwrap();
        }
        let (mut at, mut seen) = (2, Vec::new());
        while at < rows.len() {
            let (run, count) = rows.run(at).unwrap();
            seen.extend(run.chunks(rows.stride()).map(|row| row[0]));
            at += count;
        }
        assert_eq!(seen, (2..11).collect::<Vec<_>>());
    }
}
