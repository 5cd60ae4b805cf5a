//! The full vectors of all rows, as f32 or f16, and how a query is scored against them.
//!
//! Reads rows; allocates only when rows are added. The bits of a score do not depend on how many rows are scored at once.

use half::f16;

use crate::chunks::Rows;
use crate::error::{Damage, Error, Read, Result};
use crate::metric::Metric;

/// How full vectors are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// 32-bit floats.
    F32,
    /// 16-bit floats, rounded to nearest even.
    F16,
}

impl Codes {
    /// The codes of a public name.
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        match name {
            "f32" => Ok(Codes::F32),
            "f16" => Ok(Codes::F16),
            _ => Err(Error::input(format!(
                "codes is {name:?}; this version stores \"f32\" and \"f16\", and \"auto\" chooses between them"
            ))),
        }
    }

    /// The codes that a user asked for, or for "auto" the widest that fit into `memory` bytes with `rows` vectors.
    ///
    /// # Errors
    /// [`Error::Input`] for names that are unknown and for a budget that is too small.
    pub fn choose(
        name: &str,
        keep: &str,
        memory: Option<u64>,
        dim: usize,
        rows: usize,
    ) -> Result<Self> {
        if keep != "ram" {
            return Err(Error::input(format!(
                "keep_vectors is {keep:?}; this version keeps full vectors in memory: use \"ram\", and open a saved \
                 index with mmap=True to leave them on disk"
            )));
        }
        let need = |codes: Codes| (rows * (dim * codes.bytes() + BYTES_BESIDE_VECTOR)) as u64;
        let fits = |codes: Codes| memory.is_none_or(|memory| need(codes) <= memory);
        let chosen = match name {
            "auto" if fits(Codes::F32) => Codes::F32,
            "auto" => Codes::F16,
            named => Codes::parse(named)?,
        };
        if fits(chosen) {
            return Ok(chosen);
        }
        Err(Error::input(format!(
            "memory is {} bytes, but {rows} vectors of {dim} numbers need {} with codes {:?}; allow more or use fewer",
            memory.unwrap_or(0),
            need(chosen),
            chosen.name()
        )))
    }

    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            Codes::F32 => "f32",
            Codes::F16 => "f16",
        }
    }

    /// Bytes of one number.
    pub fn bytes(self) -> usize {
        match self {
            Codes::F32 => 4,
            Codes::F16 => 2,
        }
    }
}

/// What a row takes beside its vector: links of the bottom level (128), its share of upper levels and its key.
const BYTES_BESIDE_VECTOR: usize = 128 + 16;

/// A table of vectors.
#[derive(Clone)]
pub enum Vectors {
    /// Stored as they came.
    F32(Rows<f32>),
    /// Stored rounded, as the bits of [`f16`].
    F16(Rows<u16>),
}

impl Vectors {
    /// An empty table.
    pub fn new(codes: Codes, dim: usize) -> Self {
        match codes {
            Codes::F32 => Vectors::F32(Rows::new(dim)),
            Codes::F16 => Vectors::F16(Rows::new(dim)),
        }
    }

    /// How the vectors are stored.
    pub fn codes(&self) -> Codes {
        match self {
            Vectors::F32(_) => Codes::F32,
            Vectors::F16(_) => Codes::F16,
        }
    }

    /// Rows in the table.
    pub fn rows(&self) -> usize {
        match self {
            Vectors::F32(rows) => rows.len(),
            Vectors::F16(rows) => rows.len(),
        }
    }

    /// Bytes that the rows take.
    pub fn bytes(&self) -> usize {
        match self {
            Vectors::F32(rows) => rows.bytes(),
            Vectors::F16(rows) => rows.bytes(),
        }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// [`Error::Input`] if a number does not fit f16, [`Error::Corrupt`] if the last rows lie in a damaged file.
    pub fn push(&mut self, vector: &[f32], at: usize) -> Result<()> {
        match self {
            Vectors::F32(rows) => rows.push(vector)?,
            Vectors::F16(rows) => {
                let mut row = vec![f16::ZERO; vector.len()];
                osler_kernels::to_f16(vector, &mut row);
                if !osler_kernels::all_finite_f16(&row) {
                    return Err(Error::input(format!(
                        "vectors row {at} has a number beyond 65504, which codes \"f16\" cannot hold; use codes \"f32\""
                    )));
                }
                rows.push(bytemuck::cast_slice(&row))?;
            }
        }
        Ok(())
    }

    /// Moves rows that were added one by one into huge pages.
    pub fn gather(&mut self) {
        match self {
            Vectors::F32(rows) => rows.gather(),
            Vectors::F16(rows) => rows.gather(),
        }
    }

    /// Copies a row into `out`.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn read(&self, row: u32, out: &mut [f32]) -> Read<()> {
        match self {
            Vectors::F32(rows) => out.copy_from_slice(rows.row(row as usize)?),
            Vectors::F16(rows) => {
                osler_kernels::to_f32(bytemuck::cast_slice(rows.row(row as usize)?), out)
            }
        }
        Ok(())
    }

    /// Damage at a row, whose bytes are what was written but make no sense.
    pub fn damage(&self, row: u32, problem: &str) -> Box<Damage> {
        match self {
            Vectors::F32(rows) => rows.damage(row as usize, problem),
            Vectors::F16(rows) => rows.damage(row as usize, problem),
        }
    }

    /// Asks the processor to fetch a row that will be scored soon.
    #[inline(always)]
    pub fn prefetch(&self, row: u32) {
        match self {
            Vectors::F32(rows) => rows.prefetch(row as usize),
            Vectors::F16(rows) => rows.prefetch(row as usize),
        }
    }
}

/// What a probe measures.
#[derive(Clone, Copy)]
enum Measure {
    /// The inner product.
    Dot,
    /// Minus the squared distance.
    L2,
}

/// A query against a table of vectors.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    vectors: &'a Vectors,
    query: &'a [f32],
    measure: Measure,
}

impl<'a> Probe<'a> {
    /// A user's query, which `metric` has prepared.
    pub fn new(vectors: &'a Vectors, metric: Metric, query: &'a [f32]) -> Self {
        let measure = if metric == Metric::L2 {
            Measure::L2
        } else {
            Measure::Dot
        };
        Probe {
            vectors,
            query,
            measure,
        }
    }

    /// The prepared query.
    pub fn query(&self) -> &'a [f32] {
        self.query
    }

    /// The score of one row.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    #[inline(always)]
    pub fn score(&self, row: u32) -> Read<f32> {
        let at = row as usize;
        Ok(match (self.vectors, self.measure) {
            (Vectors::F32(rows), Measure::Dot) => osler_kernels::dot(self.query, rows.row(at)?),
            (Vectors::F32(rows), _) => -osler_kernels::l2(self.query, rows.row(at)?),
            (Vectors::F16(rows), Measure::Dot) => {
                osler_kernels::dot_f16(self.query, bytemuck::cast_slice(rows.row(at)?))
            }
            (Vectors::F16(rows), _) => {
                -osler_kernels::l2_f16(self.query, bytemuck::cast_slice(rows.row(at)?))
            }
        })
    }

    /// The scores of four rows, the same bits as four single scores.
    ///
    /// # Errors
    /// The damage, where a row lies in a damaged block of a file.
    #[inline(always)]
    pub fn score4(&self, four: [u32; 4]) -> Read<[f32; 4]> {
        Ok(match self.vectors {
            Vectors::F32(rows) => {
                let [a, b, c, d] = four.map(|row| row as usize);
                let rows = [rows.row(a)?, rows.row(b)?, rows.row(c)?, rows.row(d)?];
                match self.measure {
                    Measure::Dot => osler_kernels::dot4(self.query, rows),
                    _ => osler_kernels::l2_4(self.query, rows).map(|x| -x),
                }
            }
            Vectors::F16(rows) => {
                let [a, b, c, d] = four.map(|row| row as usize);
                let rows = [rows.row(a)?, rows.row(b)?, rows.row(c)?, rows.row(d)?]
                    .map(bytemuck::cast_slice);
                match self.measure {
                    Measure::Dot => osler_kernels::dot4_f16(self.query, rows),
                    _ => osler_kernels::l2_4_f16(self.query, rows).map(|x| -x),
                }
            }
        })
    }

    /// The scores of some rows for each of `queries` (row-major), query by query, with the bits of single scores; this
    /// probe's own query counts no more than the others.
    ///
    /// # Errors
    /// The damage, where a row lies in a damaged block of a file.
    pub fn score_tile(
        &self,
        queries: &[f32],
        rows: &[u32],
        gathered: &mut Gathered,
        out: &mut [f32],
    ) -> Read<()> {
        let dim = self.query.len();
        match self.vectors {
            Vectors::F32(table) => {
                let rows = side_by_side(table, rows, &mut gathered.wide)?;
                match self.measure {
                    Measure::Dot => osler_kernels::dot_tile(queries, rows, dim, out),
                    Measure::L2 => osler_kernels::l2_tile(queries, rows, dim, out),
                }
            }
            Vectors::F16(table) => {
                let rows = bytemuck::cast_slice(side_by_side(table, rows, &mut gathered.half)?);
                match self.measure {
                    Measure::Dot => osler_kernels::dot_tile_f16(queries, rows, dim, out),
                    Measure::L2 => osler_kernels::l2_tile_f16(queries, rows, dim, out),
                }
            }
        }
        if matches!(self.measure, Measure::L2) {
            out.iter_mut().for_each(|score| *score = -*score);
        }
        Ok(())
    }

    /// Rows from one multiple of this to the next lie side by side.
    pub fn rows_side_by_side(&self) -> u32 {
        let shift = match self.vectors {
            Vectors::F32(rows) => rows.shape().shift,
            Vectors::F16(rows) => rows.shape().shift,
        };
        1 << shift.min(31)
    }

    /// Asks the processor to fetch a row that will be scored soon.
    #[inline(always)]
    pub fn prefetch(&self, row: u32) {
        self.vectors.prefetch(row);
    }
}

/// Room for rows that do not lie side by side.
#[derive(Default)]
pub struct Gathered {
    wide: Vec<f32>,
    half: Vec<u16>,
}

/// Some rows as one slice: where they lie if they are neighbours there, else copied.
fn side_by_side<'a, T: bytemuck::Pod>(
    table: &'a Rows<T>,
    rows: &[u32],
    gathered: &'a mut Vec<T>,
) -> Read<&'a [T]> {
    let consecutive = rows.windows(2).all(|pair| pair[0] + 1 == pair[1]);
    if let (true, Some(&first)) = (consecutive && table.stride() == table.width(), rows.first()) {
        let (run, count) = table.run(first as usize)?;
        if count >= rows.len() {
            return Ok(&run[..rows.len() * table.width()]);
        }
    }
    gathered.clear();
    for &row in rows {
        gathered.extend_from_slice(table.row(row as usize)?);
    }
    Ok(gathered)
}
