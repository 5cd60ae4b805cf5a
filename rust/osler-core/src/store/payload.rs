//! The sections that the owner of a collection fills, as typed tables: read whole or by rows, written from values or from
//! rows of other files.
//!
//! Knows the element and width of each, and nothing of what they mean. `FORMAT.md`, "Segments".

use std::sync::Arc;

use bytemuck::Pod;

use crate::chunks::Rows;
use crate::error::{Error, Result};
use crate::file::blocks::Blocks;
use crate::file::shape::Shape;
use crate::file::{Reader, Section, kind};
use crate::planted::{Bug, planted};
use crate::tables::{blocks_within, gathered, section};

/// Widest row of a vector.
const MAX_DIM: usize = 65_536;

/// Every section of this sort, with its element and width; 0: any width.
const COLUMNS: [(u32, Element, usize); 15] = [
    (kind::VECTORS, Element::F32, 0),
    (kind::ITEM_TABLES, Element::U8, 1),
    (kind::ITEM_TABLE_ENDS, Element::U64, 1),
    (kind::ITEM_KEYS, Element::U8, 1),
    (kind::ITEM_KEY_ENDS, Element::U64, 1),
    (kind::ITEM_KEY_HASHES, Element::U64, 2),
    (kind::ITEM_CONTENTS, Element::U64, 2),
    (kind::ITEM_IDS, Element::U64, 1),
    (kind::PART_ITEMS, Element::U32, 1),
    (kind::PART_KINDS, Element::U8, 1),
    (kind::PART_PLACES, Element::U64, 8),
    (kind::PART_IDS, Element::U64, 1),
    (kind::TOMBSTONES, Element::U64, 1),
    (kind::LOCATORS, Element::U8, 1),
    (kind::LOCATOR_ROWS, Element::U64, 1),
];

/// What a table consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Element {
    /// Bytes.
    U8,
    /// Whole numbers of 32 bits.
    U32,
    /// Whole numbers of 64 bits.
    U64,
    /// Floating-point numbers of 32 bits.
    F32,
}

/// One sort of section.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    kind: u32,
    /// What it consists of.
    pub element: Element,
    /// Elements of a row; 0: any number.
    pub width: usize,
}

/// Elements of a table, row by row.
#[derive(Clone, Debug)]
pub enum Values {
    /// Of bytes.
    U8(Vec<u8>),
    /// Of 32 bits.
    U32(Vec<u32>),
    /// Of 64 bits.
    U64(Vec<u64>),
    /// Floating-point.
    F32(Vec<f32>),
}

/// A section on its way into a file.
pub struct Table {
    column: Column,
    content: Content,
}

enum Content {
    U8(Rows<u8>),
    U32(Rows<u32>),
    U64(Rows<u64>),
    F32(Rows<f32>),
    /// Rows of other files, in their order.
    Vectors(Vec<(Arc<Blocks>, Vec<u64>)>, usize),
}

impl Column {
    /// Names of all sorts.
    #[cfg(any(test, feature = "testing"))]
    pub fn names() -> impl Iterator<Item = &'static str> {
        COLUMNS.iter().map(|column| kind::name(column.0))
    }

    /// The sort of section that has a name.
    ///
    /// # Errors
    /// [`Error::Input`] if there is none.
    pub fn named(name: &str) -> Result<Self> {
        let found = COLUMNS.iter().find(|column| kind::name(column.0) == name);
        let &(kind, element, width) =
            found.ok_or_else(|| Error::input(format!("there is no section named {name}")))?;
        Ok(Column {
            kind,
            element,
            width,
        })
    }

    /// Its number in a file.
    pub fn kind(self) -> u32 {
        self.kind
    }

    fn blocks<T: Pod>(self, reader: &Reader) -> Result<Arc<Blocks>> {
        let most = if self.width == 0 { MAX_DIM } else { self.width };
        let blocks = blocks_within::<T>(reader, self.kind, 0, most)?;
        if self.width != 0 && blocks.shape().width != self.width {
            return Err(reader.damage(self.kind, "its rows have another width"));
        }
        Ok(blocks)
    }

    fn any(self, reader: &Reader) -> Result<Arc<Blocks>> {
        match self.element {
            Element::U8 => self.blocks::<u8>(reader),
            Element::U32 => self.blocks::<u32>(reader),
            Element::U64 => self.blocks::<u64>(reader),
            Element::F32 => self.blocks::<f32>(reader),
        }
    }

    /// Whether a file has this section.
    pub fn is_in(self, reader: &Reader) -> bool {
        reader.count(self.kind) > 0
    }

    /// Rows of this section in a file, and the width of one.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn shape(self, reader: &Reader) -> Result<(usize, usize)> {
        let shape = self.any(reader)?.shape();
        Ok((shape.rows, shape.width))
    }

    /// Rows from `start` up to `end`, every block of them verified.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Input`] for rows that are not there.
    pub fn range(self, reader: &Reader, start: usize, end: usize) -> Result<Values> {
        fn of<T: Pod>(blocks: &Blocks, start: usize, end: usize) -> Result<Vec<T>> {
            let Shape { width, stride, .. } = blocks.shape();
            let mut found = reserved(end - start, width)?;
            if start < end {
                let bytes = blocks.rows(start, end)?;
                let all = bytemuck::cast_slice::<u8, T>(bytes);
                if width == stride {
                    found.extend_from_slice(all);
                } else {
                    let rows = all.chunks(stride);
                    rows.for_each(|row| found.extend_from_slice(&row[..width]));
                }
            }
            Ok(found)
        }
        let blocks = self.any(reader)?;
        if start > end || end > blocks.shape().rows {
            return Err(Error::input("rows beyond the end of a section"));
        }
        Ok(match self.element {
            Element::U8 => Values::U8(of(&blocks, start, end)?),
            Element::U32 => Values::U32(of(&blocks, start, end)?),
            Element::U64 => Values::U64(of(&blocks, start, end)?),
            Element::F32 => Values::F32(self.finite(reader, of(&blocks, start, end)?)?),
        })
    }

    /// Rows in the order asked.
    ///
    /// # Errors
    /// Those of [`Column::range`].
    pub fn gather(self, reader: &Reader, wanted: &[u64]) -> Result<Values> {
        fn of<T: Pod>(blocks: &Blocks, wanted: &[u64]) -> Result<Vec<T>> {
            let width = blocks.shape().width;
            let mut found = reserved(wanted.len(), width)?;
            for &row in wanted {
                let bytes = blocks.rows(row as usize, row as usize + 1)?;
                found.extend_from_slice(&bytemuck::cast_slice::<u8, T>(bytes)[..width]);
            }
            Ok(found)
        }
        let blocks = self.any(reader)?;
        if wanted.iter().any(|&row| row >= blocks.shape().rows as u64) {
            return Err(Error::input("a row beyond the end of a section"));
        }
        Ok(match self.element {
            Element::U8 => Values::U8(of(&blocks, wanted)?),
            Element::U32 => Values::U32(of(&blocks, wanted)?),
            Element::U64 => Values::U64(of(&blocks, wanted)?),
            Element::F32 => Values::F32(self.finite(reader, of(&blocks, wanted)?)?),
        })
    }

    /// The same values, if they are numbers: checksums that are right do not say so.
    fn finite(self, reader: &Reader, values: Vec<f32>) -> Result<Vec<f32>> {
        if osler_kernels::all_finite(&values) {
            Ok(values)
        } else {
            Err(reader.damage(self.kind, "a value is not finite"))
        }
    }
}

/// Room for so many rows.
fn reserved<T>(rows: usize, width: usize) -> Result<Vec<T>> {
    let mut count = rows.saturating_mul(width);
    if planted(Bug::RowsTrusted) {
        count = count.saturating_mul(1 << 16);
    }
    let mut values = Vec::new();
    values
        .try_reserve_exact(count)
        .map_err(|_| Error::Memory(count.saturating_mul(size_of::<T>())))?;
    Ok(values)
}

impl Table {
    /// A section with these values, `width` in a row.
    ///
    /// # Errors
    /// [`Error::Input`] if they are not what the section consists of.
    pub fn of_values(name: &str, values: &Values, width: usize) -> Result<Self> {
        fn rows<T: Pod>(values: &[T], width: usize) -> Result<Rows<T>> {
            let mut rows = Rows::new(width);
            for row in values.chunks_exact(width) {
                rows.push(row)?;
            }
            Ok(rows)
        }
        let column = Column::named(name)?;
        let count = match values {
            Values::U8(values) => values.len(),
            Values::U32(values) => values.len(),
            Values::U64(values) => values.len(),
            Values::F32(values) => values.len(),
        };
        let fits = (1..=MAX_DIM).contains(&width)
            && (column.width == 0 || column.width == width)
            && count.is_multiple_of(width);
        let content = match (values, column.element) {
            (Values::U8(values), Element::U8) if fits => Content::U8(rows(values, width)?),
            (Values::U32(values), Element::U32) if fits => Content::U32(rows(values, width)?),
            (Values::U64(values), Element::U64) if fits => Content::U64(rows(values, width)?),
            (Values::F32(values), Element::F32) if fits => Content::F32(rows(values, width)?),
            _ => {
                return Err(Error::input(format!(
                    "the section {name} has other elements or rows of another width"
                )));
            }
        };
        Ok(Table { column, content })
    }

    /// The vectors of rows of other files, copied block by block when they are written.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Input`] for rows that are not there or of another width.
    pub fn of_vectors(width: usize, sources: Vec<(Arc<Reader>, Vec<u64>)>) -> Result<Self> {
        let column = Column::named(kind::name(kind::VECTORS))?;
        let mut content = Vec::with_capacity(sources.len());
        for (reader, wanted) in sources {
            let blocks = column.blocks::<f32>(&reader)?;
            let shape = blocks.shape();
            if shape.width != width || wanted.iter().any(|&row| row >= shape.rows as u64) {
                return Err(Error::input("vectors that are not there"));
            }
            content.push((blocks, wanted));
        }
        Ok(Table {
            column,
            content: Content::Vectors(content, width),
        })
    }

    /// The section to be written.
    pub fn section(&self) -> Section<'_> {
        match &self.content {
            Content::U8(rows) => section(self.column.kind, 0, rows),
            Content::U32(rows) => section(self.column.kind, 0, rows),
            Content::U64(rows) => section(self.column.kind, 0, rows),
            Content::F32(rows) => section(self.column.kind, 0, rows),
            Content::Vectors(sources, width) => {
                gathered::<f32>(self.column.kind, 0, *width, sources)
            }
        }
    }
}
