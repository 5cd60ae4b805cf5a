//! Rows of equal width in chunks that are never edited while a reader can see them.
//!
//! A chunk is shared by all snapshots that hold it and copied when a writer changes it; or it is a block of a file.
//! Allocates only when rows are added or changed.

#[cfg(test)]
mod tests;
mod view;

use std::marker::PhantomData;
use std::sync::Arc;

use bytemuck::{Pod, Zeroable};

pub use self::view::View;
use crate::error::{Damage, Read};
use crate::file::blocks::Blocks;
use crate::file::map::{HUGE_FROM_BYTES, Huge, Line};
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
    /// At an offset of the memory that chunks share.
    Gathered(usize),
    /// Rows of a file, by their number there.
    Stored(Arc<Blocks>),
}

/// Rows that lie one after another, from the first on.
#[derive(Clone)]
struct Flat {
    /// A file's; None: the memory that chunks share, and every chunk's place there is its own, also of those to come.
    file: Option<Arc<Huge>>,
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
    /// Memory that chunks share.
    gathered: Option<Arc<Huge>>,
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
            gathered: None,
            flat: None,
            element: PhantomData,
        }
    }

    /// A table of `rows` rows of zeros; up to `room` lie in one piece of huge pages, if they are many.
    pub fn zeroed(width: usize, rows: usize, room: usize) -> Self {
        let mut table = Self::new(width);
        let size = table.shape().block_bytes();
        let bytes = room.max(rows).div_ceil(table.per_chunk()) * size;
        if bytes >= HUGE_FROM_BYTES
            && size.is_multiple_of(Line::BYTES)
            && let Some(memory) = Huge::zeroed(bytes)
        {
            table.gathered = Some(Arc::new(memory));
            table.flat = Some(Flat {
                file: None,
                start: 0,
                rows: 0,
            });
        }
        for _ in 0..rows.div_ceil(table.per_chunk()) {
            table.add_chunk();
        }
        table.len = rows;
        if let Some(flat) = &mut table.flat {
            flat.rows = rows;
        }
        table
    }

    /// All rows of a table that was just made, to be filled from many threads.
    pub fn all_mut(&mut self) -> Vec<&mut [T]> {
        let (stride, width, len) = (self.stride, self.width, self.len);
        let mut all = Vec::with_capacity(len);
        let mut add = |bytes| all.extend(elements_mut(bytes).chunks_mut(stride));
        match self.gathered.as_mut().map(Arc::get_mut) {
            Some(memory) => add(memory.expect("one table has it").bytes_mut()),
            None => {
                for chunk in &mut self.chunks {
                    let Chunk::Owned(lines) = chunk else {
                        unreachable!("it is in no file");
                    };
                    let lines = Arc::get_mut(lines).expect("one table has it");
                    add(bytemuck::cast_slice_mut(lines));
                }
            }
        }
        all.truncate(len);
        all.iter_mut()
            .for_each(|row| *row = &mut std::mem::take(row)[..width]);
        all
    }

    /// A table over a section of a file, whose blocks are not larger than chunks.
    pub fn stored(blocks: Arc<Blocks>) -> Self {
        let Shape {
            rows,
            width,
            stride,
            shift,
            ..
        } = blocks.shape();
        let shift = shift.max(Self::new(width).shift);
        let chunks = (0..rows.div_ceil(1 << shift))
            .map(|_| Chunk::Stored(blocks.clone()))
            .collect();
        let flat = blocks.at_hand().map(|(memory, start)| Flat {
            file: Some(memory),
            start,
            rows,
        });
        Rows {
            width,
            stride,
            shift,
            len: rows,
            chunks,
            gathered: None,
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
            Chunk::Gathered(offset) => Ok(self.gathered(*offset)),
            Chunk::Owned(lines) => Ok(elements(bytemuck::cast_slice(lines))),
            Chunk::Stored(blocks) => {
                let (first, end) = self.rows_of(index, blocks);
                blocks.rows(first, end).map(elements)
            }
        }
    }

    /// The first row of a chunk that lies in a file, and the one after its last.
    fn rows_of(&self, chunk: usize, blocks: &Blocks) -> (usize, usize) {
        let first = chunk << self.shift;
        (first, (first + self.per_chunk()).min(blocks.shape().rows))
    }

    /// The table for many reads: what leads to its rows is looked up once.
    pub fn view(&self) -> View<'_, T> {
        let flat = self.flat.as_ref().map_or(&[][..], |flat| {
            let bytes = flat.rows * self.stride * size_of::<T>();
            // The last row of a file ends with its own elements.
            let whole = &self.memory(flat.file.as_ref())[flat.start..];
            elements(&whole[..bytes.min(whole.len())])
        });
        View::new(self, flat)
    }

    #[inline(always)]
    fn flat_row(&self, row: usize) -> Option<&[T]> {
        let flat = self.flat.as_ref()?;
        if row >= flat.rows {
            return None;
        }
        let start = flat.start + row * self.stride * size_of::<T>();
        let memory = self.memory(flat.file.as_ref());
        Some(bytemuck::cast_slice(
            &memory[start..start + self.width * size_of::<T>()],
        ))
    }

    /// A file's memory, or that which chunks share.
    #[inline(always)]
    fn memory<'a>(&'a self, file: Option<&'a Arc<Huge>>) -> &'a [u8] {
        file.or(self.gathered.as_ref())
            .map_or(&[], |memory| memory.bytes())
    }

    #[inline(always)]
    fn gathered(&self, offset: usize) -> &[T] {
        elements(&self.memory(None)[offset..offset + self.shape().block_bytes()])
    }

    /// Moves all chunks into one piece of huge pages, if many are memory of their own: a walk touches rows at random, and
    /// without huge pages most of those touches miss the processor's table of pages as well.
    pub fn gather(&mut self) {
        let size = self.shape().block_bytes();
        let count = |is: fn(&Chunk) -> bool| self.chunks.iter().filter(|chunk| is(chunk)).count();
        let own = count(|chunk| matches!(chunk, Chunk::Owned(_)));
        let movable = count(|chunk| !matches!(chunk, Chunk::Stored(..)));
        let worth = own * size >= HUGE_FROM_BYTES && own * GATHER_SHARE >= movable;
        if !worth || !size.is_multiple_of(Line::BYTES) {
            return;
        }
        let Some(mut memory) = Huge::zeroed(movable * size) else {
            return;
        };
        let mut places = memory.bytes_mut().chunks_exact_mut(size);
        let mut offset = 0;
        for chunk in &mut self.chunks {
            let bytes: &[u8] = match chunk {
                Chunk::Owned(lines) => bytemuck::cast_slice(lines),
                Chunk::Gathered(from) => {
                    &self.gathered.as_ref().map_or(&[][..], |m| m.bytes())[*from..]
                }
                Chunk::Stored(..) => continue,
            };
            let Some(place) = places.next() else { break };
            place.copy_from_slice(&bytes[..size]);
            // The chunk is given back at once, so that no second copy of a table that was just made is ever held.
            *chunk = Chunk::Gathered(offset);
            offset += size;
        }
        self.gathered = Some(Arc::new(memory));
        self.flat = (movable == self.chunks.len()).then_some(Flat {
            file: None,
            start: 0,
            rows: self.len,
        });
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
        let index = row >> self.shift;
        if let Chunk::Stored(blocks) = &self.chunks[index] {
            let bytes = blocks.rows(row, row + 1)?;
            return Ok(&elements(bytes)[..self.width]);
        }
        let chunk = self.chunk(index)?;
        let at = (row & (self.per_chunk() - 1)) * self.stride;
        Ok(&chunk[at..at + self.width])
    }

    /// Damage at a row, whose bytes are what was written but make no sense.
    pub fn damage(&self, row: usize, problem: &str) -> Box<Damage> {
        let at = row * self.stride * size_of::<T>();
        match &self.chunks[row >> self.shift] {
            Chunk::Stored(blocks) => blocks.damage((blocks.offset() + at) as u64, problem),
            Chunk::Owned(_) | Chunk::Gathered(_) => Box::new(Damage {
                file: "the index in memory".to_owned(),
                section: String::new(),
                offset: at as u64,
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
            Chunk::Gathered(offset) => self.gathered(*offset),
            Chunk::Owned(lines) => elements(bytemuck::cast_slice(lines)),
            Chunk::Stored(blocks) => {
                let bytes = blocks.rows_at_hand(row, row + 1)?;
                return elements(bytes).get(..self.width);
            }
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
            self.add_chunk();
        }
        self.len += 1;
        self.row_mut(self.len - 1)?.copy_from_slice(row);
        let gathered = matches!(self.chunks.last(), Some(Chunk::Gathered(_)));
        if let Some(flat) = &mut self.flat
            && gathered
            && flat.rows + 1 == self.len
        {
            flat.rows = self.len;
        }
        Ok(())
    }

    /// Adds a chunk of zeros, in its place of the shared memory if there is one that nobody else can see.
    fn add_chunk(&mut self) {
        let size = self.shape().block_bytes();
        let offset = self.chunks.len() * size;
        let in_order = self.flat.as_ref().is_some_and(|flat| flat.file.is_none());
        let room = self.alone().map_or(0, |memory| memory.bytes().len());
        self.chunks.push(if in_order && offset + size <= room {
            Chunk::Gathered(offset)
        } else {
            let lines = size.div_ceil(Line::BYTES);
            Chunk::Owned(std::iter::repeat_n(Line::zeroed(), lines).collect())
        });
    }

    /// One row, to be changed; its chunk is copied if a snapshot or a file holds it.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn row_mut(&mut self, row: usize) -> Read<&mut [T]> {
        let block = self.shape().block_bytes();
        let at = (row & (self.per_chunk() - 1)) * self.stride;
        let (width, index) = (self.width, row >> self.shift);
        let alone = self.alone().is_some();
        let bytes = match self.chunks[index] {
            Chunk::Gathered(offset) if alone => {
                let memory = self.alone().expect("so it was just now");
                &mut memory.bytes_mut()[offset..offset + block]
            }
            _ => self.own(index)?,
        };
        Ok(&mut elements_mut(bytes)[at..at + width])
    }

    /// The memory that chunks share, if no snapshot shares it too.
    fn alone(&mut self) -> Option<&mut Huge> {
        self.gathered.as_mut().and_then(Arc::get_mut)
    }

    /// The bytes of a chunk in memory of its own that no snapshot holds, where it is copied to if need be.
    fn own(&mut self, index: usize) -> Read<&mut [u8]> {
        if let Some(flat) = &mut self.flat {
            flat.rows = flat.rows.min(index << self.shift);
        }
        let block = self.shape().block_bytes();
        let bytes = match &self.chunks[index] {
            Chunk::Owned(_) => None,
            Chunk::Gathered(offset) => Some(&self.memory(None)[*offset..*offset + block]),
            Chunk::Stored(blocks) => {
                let (first, end) = self.rows_of(index, blocks);
                Some(blocks.rows(first, end)?)
            }
        };
        if let Some(bytes) = bytes {
            let mut lines = vec![Line::zeroed(); block.div_ceil(Line::BYTES)];
            bytemuck::cast_slice_mut::<Line, u8>(&mut lines)[..bytes.len()].copy_from_slice(bytes);
            self.chunks[index] = Chunk::Owned(lines.into());
        }
        match &mut self.chunks[index] {
            Chunk::Owned(lines) => Ok(bytemuck::cast_slice_mut(Arc::make_mut(lines))),
            _ => unreachable!("it was copied"),
        }
    }

    /// The bytes of one block of `shape` as they are written to a file; the last one ends with the last row.
    ///
    /// # Errors
    /// The damage, where the block comes from a damaged file.
    pub fn block_bytes(&self, shape: Shape, index: usize) -> Read<&[u8]> {
        let first = index << shape.shift;
        let end = (first + (1 << shape.shift)).min(self.len);
        let chunk = first >> self.shift;
        if let Chunk::Stored(blocks) = &self.chunks[chunk] {
            return blocks.rows(first, end);
        }
        let at = (first & (self.per_chunk() - 1)) * self.stride;
        let rows = &self.chunk(chunk)?[at..at + (end - first) * self.stride];
        Ok(bytemuck::cast_slice(rows))
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

fn elements<T: Pod>(bytes: &[u8]) -> &[T] {
    bytemuck::cast_slice(&bytes[..bytes.len() / size_of::<T>() * size_of::<T>()])
}

fn elements_mut<T: Pod>(bytes: &mut [u8]) -> &mut [T] {
    let whole = bytes.len() / size_of::<T>() * size_of::<T>();
    bytemuck::cast_slice_mut(&mut bytes[..whole])
}
