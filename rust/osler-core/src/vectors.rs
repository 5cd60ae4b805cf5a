//! Full vectors of rows, as f32 or f16, in memory or in a file, and how a query is scored against them.
//!
//! Reads rows; allocates only when rows are added. The bits of a score do not depend on how many rows are scored at once.
//! Rows whose vectors are not kept are scored by what stands in for them.

use std::sync::Arc;

use bytemuck::Pod;
use half::f16;
use rayon::prelude::*;

use crate::chunks::Rows;
use crate::error::{Damage, Error, Read, Result};
use crate::graph::repair;
use crate::likeness::Likeness;
use crate::metric::Metric;
use crate::spool::Spool;

pub use crate::form::{Codes, Keep};

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
            Codes::F32 | Codes::Sq8 | Codes::Sq5 | Codes::Small(_) => Vectors::F32(Rows::new(dim)),
            Codes::F16 => Vectors::F16(Rows::new(dim)),
        }
    }

    /// A table of many rows, copied on the threads of the caller's pool.
    ///
    /// # Errors
    /// [`Error::Input`] for the first row with a number that does not fit f16.
    pub fn of(codes: Codes, dim: usize, vectors: &[f32]) -> Result<Self> {
        let rows = vectors.len() / dim;
        let vectors = vectors.par_chunks_exact(dim);
        Ok(match Vectors::new(codes, dim) {
            Vectors::F32(_) => {
                let mut table = Rows::zeroed(dim, rows, rows);
                let copies = table.all_mut().into_par_iter().zip(vectors);
                copies.for_each(|(row, vector)| row.copy_from_slice(vector));
                Vectors::F32(table)
            }
            Vectors::F16(_) => {
                let mut table = Rows::zeroed(dim, rows, rows);
                let copies = table.all_mut().into_par_iter().zip(vectors).enumerate();
                let copy = |(at, (row, vector)): (usize, (&mut [u16], &[f32]))| {
                    row.copy_from_slice(&half_row(vector, at)?);
                    Ok(())
                };
                copies.map(copy).find_first(Result::is_err).transpose()?;
                Vectors::F16(table)
            }
        })
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
            Vectors::F16(rows) => rows.push(&half_row(vector, at)?)?,
        }
        Ok(())
    }

    /// The table with more rows, all of them in a temporary file.
    ///
    /// # Errors
    /// As for [`Vectors::push`], and [`Error::Io`] if there is no room for the file.
    pub fn spooled_with(&self, vectors: &[f32], dim: usize) -> Result<Self> {
        let mut new = vectors.chunks_exact(dim).enumerate();
        Ok(match self {
            Vectors::F32(rows) => {
                let mut spool = copied(rows)?;
                new.try_for_each(|(_, vector)| spool.push(vector))?;
                Vectors::F32(spool.finish()?)
            }
            Vectors::F16(rows) => {
                let mut spool = copied(rows)?;
                new.try_for_each(|(at, vector)| spool.push(&half_row(vector, at)?))?;
                Vectors::F16(spool.finish()?)
            }
        })
    }

    /// The rows that stay, in order; in a temporary file if `spooled`.
    ///
    /// # Errors
    /// The damage, where a row lies in a damaged block of a file; [`Error::Io`].
    pub fn kept(&self, new_row: &[u32], spooled: bool) -> Result<Self> {
        Ok(match self {
            Vectors::F32(rows) => Vectors::F32(kept(rows, new_row, spooled)?),
            Vectors::F16(rows) => Vectors::F16(kept(rows, new_row, spooled)?),
        })
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

fn half_row(vector: &[f32], at: usize) -> Result<Vec<u16>> {
    let mut row = vec![f16::ZERO; vector.len()];
    osler_kernels::to_f16(vector, &mut row);
    if !osler_kernels::all_finite_f16(&row) {
        return Err(Error::input(format!(
            "vectors row {at} has a number beyond 65504, which codes \"f16\" cannot hold; use codes \"f32\""
        )));
    }
    Ok(row.into_iter().map(f16::to_bits).collect())
}

fn copied<T: Pod>(rows: &Rows<T>) -> Result<Spool<T>> {
    let mut spool = Spool::new(rows.width())?;
    for row in 0..rows.len() {
        spool.push(rows.row(row)?)?;
    }
    Ok(spool)
}

fn kept<T: Pod>(rows: &Rows<T>, new_row: &[u32], spooled: bool) -> Result<Rows<T>> {
    if !spooled {
        return Ok(repair::kept(rows, new_row)?);
    }
    let mut spool = Spool::new(rows.width())?;
    for (row, &to) in new_row.iter().enumerate() {
        if to != repair::GONE {
            spool.push(rows.row(row)?)?;
        }
    }
    spool.finish()
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
#[derive(Clone)]
pub struct Probe<'a> {
    vectors: &'a Vectors,
    query: &'a [f32],
    measure: Measure,
    /// What rows below the number are scored by; the table has those from it on.
    bare: Option<(u32, Arc<Likeness<'a>>)>,
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
            bare: None,
        }
    }

    /// The same, where rows below `rows` have no vectors.
    pub fn with_likeness(self, rows: usize, likeness: Likeness<'a>) -> Self {
        Probe {
            bare: Some((rows as u32, Arc::new(likeness))),
            ..self
        }
    }

    /// Whether rows are scored as tiles.
    pub fn has_tiles(&self) -> bool {
        self.bare.is_none()
    }

    #[cold]
    fn score_without_vector(&self, row: u32, bare: &(u32, Arc<Likeness<'a>>)) -> Read<f32> {
        if row < bare.0 {
            return bare.1.score(row);
        }
        let with_vectors = Probe {
            bare: None,
            ..self.clone()
        };
        with_vectors.score(row - bare.0)
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
        if let Some(bare) = &self.bare {
            return self.score_without_vector(row, bare);
        }
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
        if let Some(bare) = &self.bare {
            let mut scores = [0.0; 4];
            for (score, row) in scores.iter_mut().zip(four) {
                *score = self.score_without_vector(row, bare)?;
            }
            return Ok(scores);
        }
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
    /// probe's own query counts no more than the others. Only for a probe that [has tiles](Probe::has_tiles).
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
        if self.bare.is_none() {
            self.vectors.prefetch(row);
        }
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
