//! One snapshot of an index: vectors, keys, graph, and which rows are live. Readers share it; a writer clones it,
//! changes the clone and publishes that.

use std::sync::{Arc, Weak};

use crate::calibrate::Calibration;
use crate::chunks::Rows;
use crate::codes::CodeTable;
use crate::error::{Error, Read, Result};
use crate::file::Reader;
use crate::graph::Graph;
use crate::graph::insert::Source;
use crate::graph::query::Query;
use crate::keys::Keys;
use crate::likeness::Likeness;
use crate::metric::{LARGEST, Metric, shorten};
use crate::select::RowSet;
use crate::vectors::{Codes, Keep, Probe, Vectors};

/// Below this many live rows every search is exact and no graph is kept.
const EXACT_BELOW: usize = 2000;

/// What stands in the place of [`EXACT_BELOW`], so that files of every kind are small in tests.
#[cfg(any(test, feature = "testing"))]
static LOWERED: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(EXACT_BELOW);

/// Lets indexes of so many rows have a graph; None: as in a build for use.
#[cfg(any(test, feature = "testing"))]
pub fn lower(rows: Option<usize>) {
    LOWERED.store(
        rows.unwrap_or(EXACT_BELOW),
        std::sync::atomic::Ordering::SeqCst,
    );
}

/// Below this many live rows every search is exact and no graph is kept.
pub fn exact_below() -> usize {
    #[cfg(any(test, feature = "testing"))]
    return LOWERED.load(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(any(test, feature = "testing")))]
    EXACT_BELOW
}

/// Full vectors that are kept on disk are written there once so many bytes of new ones have come, or this share of those
/// on disk, so that a stream of small additions does not write all of them anew each time.
const RESIDENT_BYTES: usize = 64 << 10;
const RESIDENT_SHARE: usize = 8;

/// What never changes about an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Numbers of a vector.
    pub dim: usize,
    /// What a score means.
    pub metric: Metric,
    /// What rows are searched by.
    pub codes: Codes,
    /// Where full vectors are kept.
    pub keep: Keep,
    /// Seed of every random choice.
    pub seed: u64,
}

/// Greatest number of columns.
pub const MAX_DIM: usize = 65_536;

impl Params {
    /// # Errors
    /// [`Error::Input`] if `dim` is out of range.
    pub fn check(self) -> Result<Self> {
        if self.dim == 0 || self.dim > MAX_DIM {
            return Err(Error::input(format!(
                "dim is {}; it must be between 1 and {MAX_DIM}",
                self.dim
            )));
        }
        Ok(self)
    }
}

/// How rows were renumbered when deleted ones were dropped, for prepared sets that still have the old numbers.
#[derive(Clone)]
pub(crate) struct Renumbering {
    /// Alive while a prepared set of that numbering is.
    pub users: Weak<()>,
    pub new_row: Arc<[u32]>,
}

/// A snapshot.
#[derive(Clone)]
pub struct State {
    /// What never changes.
    pub params: Params,
    /// Full vectors of the rows from `bare` on.
    pub(crate) vectors: Vectors,
    /// Rows below this have no full vectors.
    pub(crate) bare: usize,
    /// As many of the table's rows lie in a file and not in memory.
    pub(crate) spooled: usize,
    /// Under the dot metric, the coordinate that brings each row to one length, and that length.
    pub(crate) lifts: Option<Rows<f32>>,
    pub(crate) radius: f32,
    pub(crate) keys: Keys,
    pub(crate) deleted: Arc<RowSet>,
    pub(crate) dead: usize,
    pub(crate) graph: Option<Graph>,
    /// Small codes instead of a graph.
    pub(crate) codes: Option<CodeTable>,
    pub(crate) calibration: Option<Arc<Calibration>>,
    /// Rows linked since it was last looked for rows that no path leads to.
    pub(crate) unchecked: usize,
    /// Number of the current numbering of rows, and how the ones before it led here, oldest first.
    pub(crate) numbering: u64,
    pub(crate) users: Arc<()>,
    pub(crate) renumberings: Vec<Renumbering>,
    /// The file behind it, if any.
    pub(crate) reader: Option<Arc<Reader>>,
}

impl State {
    /// A snapshot without rows.
    pub fn empty(params: Params) -> Self {
        State {
            params,
            vectors: Vectors::new(params.codes, params.dim),
            bare: 0,
            spooled: 0,
            lifts: (params.metric == Metric::Dot).then(|| Rows::new(1)),
            radius: 0.0,
            keys: Keys::default(),
            deleted: Arc::default(),
            dead: 0,
            graph: None,
            codes: None,
            calibration: None,
            unchecked: 0,
            numbering: 0,
            users: Arc::new(()),
            renumberings: Vec::new(),
            reader: None,
        }
    }

    /// All rows, deleted ones too.
    pub fn rows(&self) -> usize {
        self.bare + self.vectors.rows()
    }

    /// Rows that the graph or the codes have.
    pub(crate) fn linked_rows(&self) -> usize {
        let coded = self.codes.as_ref().map(CodeTable::rows);
        coded.unwrap_or_else(|| self.graph.as_ref().map_or(0, Graph::rows))
    }

    /// Whether there is a graph, or codes that are scanned.
    pub fn is_linked(&self) -> bool {
        self.graph.is_some() || self.codes.is_some()
    }

    /// What scores come from.
    pub fn scores_from(&self) -> String {
        match (self.bare, &self.codes) {
            (0, _) if self.params.codes.bytes() == 4 => "f32".to_owned(),
            (0, _) | (_, Some(_)) => self.params.codes.name(),
            _ if self.params.codes == Codes::Sq5 => "sq5".to_owned(),
            _ => "sq8".to_owned(),
        }
    }

    /// Writes out a row's vector, or the best that is kept of it.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn vector(&self, row: u32, out: &mut [f32]) -> Read<()> {
        if row as usize >= self.bare {
            return self.vectors.read(row - self.bare as u32, out);
        }
        match (&self.codes, &self.graph) {
            (Some(codes), _) => codes.decode(row, out)?,
            (None, Some(graph)) => graph.decode(row, out)?,
            (None, None) => out.fill(0.0),
        }
        if self.params.metric == Metric::Cosine {
            let length = osler_kernels::sum_of_squares(out).sqrt();
            if length > 0.0 {
                out.iter_mut().for_each(|x| *x /= length);
            }
        } else {
            shorten(out);
        }
        Ok(())
    }

    /// A prepared query against the best that is kept of every row.
    pub fn probe<'a>(&'a self, query: &'a [f32]) -> Probe<'a> {
        let probe = Probe::new(&self.vectors, self.params.metric, query);
        if self.bare == 0 {
            return probe;
        }
        match (&self.codes, &self.graph) {
            (Some(codes), _) => probe.with_likeness(self.bare, Likeness::of_codes(codes, query)),
            (None, Some(graph)) => {
                let likeness = Likeness::of_graph(graph, self.params.metric, query);
                probe.with_likeness(self.bare, likeness)
            }
            (None, None) => probe,
        }
    }

    /// Gives up full vectors where they are not to be kept and something else stands for every row.
    pub(crate) fn forget(&mut self) {
        if self.params.keep == Keep::Nowhere
            && self.linked_rows() == self.rows()
            && self.is_linked()
        {
            self.bare = self.rows();
            self.vectors = Vectors::new(self.params.codes, self.params.dim);
        }
    }

    /// Makes vectors again of what is kept of each row that `stays`, under the new numbers.
    pub(crate) fn remembered(&self, stays: impl Fn(u32) -> bool) -> Result<Vectors> {
        let mut vectors = Vectors::new(self.params.codes, self.params.dim);
        let mut vector = vec![0.0; self.params.dim];
        for row in (0..self.rows() as u32).filter(|&row| stays(row)) {
            self.vector(row, &mut vector)?;
            vectors.push(&vector, row as usize)?;
        }
        Ok(vectors)
    }

    /// Rows that are live.
    pub fn live(&self) -> usize {
        self.rows() - self.dead
    }

    /// Whether a row is live.
    #[inline(always)]
    pub fn is_live(&self, row: u32) -> bool {
        self.dead == 0 || !self.deleted.contains(row)
    }

    /// The live row of a key.
    ///
    /// # Errors
    /// The damage, if keys lie in a damaged file.
    pub fn row(&self, key: u64) -> Read<Option<u32>> {
        Ok(self.keys.row(key)?.filter(|&row| self.is_live(row)))
    }

    /// The live rows, ascending.
    pub fn live_rows(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.rows() as u32).filter(|&row| self.is_live(row))
    }

    /// The live rows as a set.
    pub fn live_set(&self) -> RowSet {
        RowSet::full(self.rows()).combine(&self.deleted, |all, gone| all & !gone)
    }

    /// Keys of the live rows, in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if keys lie in a damaged file.
    pub fn live_keys(&self) -> Result<Vec<u64>> {
        self.live_rows()
            .map(|row| Ok(self.keys.key(row)?))
            .collect()
    }

    /// Makes `radius` the length that lifts bring rows to. What was measured under the old one holds no longer.
    pub(crate) fn lengthen(&mut self, radius: f32) -> Result<()> {
        self.radius = radius;
        self.calibration = None;
        let mut lifts = Rows::new(1);
        let mut vector = vec![0.0; self.params.dim];
        for row in 0..self.rows() as u32 {
            self.vector(row, &mut vector)?;
            let squares = osler_kernels::sum_of_squares(&vector);
            lifts.push(&[(radius * radius - squares).max(0.0).sqrt()])?;
        }
        self.lifts = Some(lifts);
        Ok(())
    }

    /// Checks what checksums cannot: that links are lists of rows, and that every number can be scored.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub(crate) fn check(&self) -> Read<()> {
        self.keys.check()?;
        if let Some(graph) = &self.graph {
            graph.validate()?;
        }
        if let Some(codes) = &self.codes {
            codes.validate()?;
        }
        let mut vector = vec![0.0; self.params.dim];
        for row in 0..self.vectors.rows() as u32 {
            self.vectors.read(row, &mut vector)?;
            let squares = osler_kernels::sum_of_squares(&vector);
            let sound = match self.params.metric {
                Metric::Cosine => (squares - 1.0).abs() < 0.01,
                Metric::Dot | Metric::L2 => f64::from(squares) <= LARGEST * (16.0 / 15.0),
            };
            if !sound {
                return Err(self.vectors.damage(row, "a vector cannot be scored"));
            }
        }
        for (row, lifts) in self
            .lifts
            .iter()
            .flat_map(|l| (0..l.len()).map(move |r| (r, l)))
        {
            if !lifts.value(row)?.is_finite() {
                return Err(lifts.damage(row, "a coordinate is not finite"));
            }
        }
        Ok(())
    }

    /// Adds prepared vectors; `many` are copied on the threads of the caller's pool.
    ///
    /// # Errors
    /// [`Error::Input`] if the codes cannot hold one, [`Error::Io`] if there is no room for them on disk.
    pub(crate) fn push(&mut self, vectors: &[f32], many: bool) -> Result<()> {
        let dim = self.params.dim;
        if let Some(lifts) = &mut self.lifts {
            for vector in vectors.chunks_exact(dim) {
                let squares = osler_kernels::sum_of_squares(vector);
                lifts.push(&[(self.radius * self.radius - squares).max(0.0).sqrt()])?;
            }
        }
        let row = dim * self.params.codes.bytes();
        let resident = (self.vectors.rows() - self.spooled + vectors.len() / dim) * row;
        let allowed = (self.spooled * row / RESIDENT_SHARE).max(RESIDENT_BYTES);
        if self.params.keep == Keep::Disk && resident > allowed {
            self.vectors = self.vectors.spooled_with(vectors, dim)?;
            self.spooled = self.vectors.rows();
            return Ok(());
        }
        if many && self.vectors.rows() == 0 {
            self.vectors = Vectors::of(self.params.codes, dim, vectors)?;
            return Ok(());
        }
        for (at, vector) in vectors.chunks_exact(dim).enumerate() {
            self.vectors.push(vector, at)?;
        }
        Ok(())
    }

    /// Moves full vectors out of memory where they are to be kept on disk.
    pub(crate) fn spool(&mut self) -> Result<()> {
        let bytes = self.vectors.rows() * self.params.dim * self.params.codes.bytes();
        if self.params.keep == Keep::Disk && self.spooled == 0 && bytes > RESIDENT_BYTES {
            self.vectors = self.vectors.spooled_with(&[], self.params.dim)?;
            self.spooled = self.vectors.rows();
        }
        Ok(())
    }

    /// Where a row of an older numbering is now; None if it is gone, or if the numbering is forgotten.
    pub(crate) fn translate(&self, numbering: u64) -> Option<impl Fn(u32) -> Option<u32> + '_> {
        let steps = (self.numbering - numbering) as usize;
        let from = self.renumberings.len().checked_sub(steps)?;
        Some(move |row: u32| {
            self.renumberings[from..].iter().try_fold(row, |row, step| {
                step.new_row
                    .get(row as usize)
                    .copied()
                    .filter(|&to| to != crate::graph::repair::GONE)
            })
        })
    }
}

impl State {
    /// Makes a prepared query the one that the graph is walked for. Under the inner product only its direction matters, so
    /// it gets the length of the lifted rows.
    pub(crate) fn aim(&self, graph: &Graph, query: &[f32], target: &mut Query) {
        let (scale, lift) = match self.params.metric {
            Metric::Dot => {
                let length = osler_kernels::sum_of_squares(query).sqrt();
                let scale = if length > 0.0 {
                    (self.radius / length).min(f32::MAX)
                } else {
                    1.0
                };
                (scale, Some(0.0))
            }
            Metric::Cosine | Metric::L2 => (1.0, None),
        };
        target.prepare(graph.frame(), query, scale, lift);
    }
}

impl Source for State {
    fn dim(&self) -> usize {
        self.params.dim + usize::from(self.lifts.is_some())
    }

    fn read(&self, row: u32, out: &mut [f32]) -> Read<()> {
        let dim = self.params.dim;
        self.vector(row, &mut out[..dim])?;
        if let Some(lifts) = &self.lifts {
            out[dim] = lifts.value(row as usize)?;
        }
        Ok(())
    }
}
