//! One snapshot of an index: vectors, keys, graph, and which rows are live. Readers share it; a writer clones it,
//! changes the clone and publishes that.

use std::sync::{Arc, Weak};

use crate::calibrate::Calibration;
use crate::chunks::Rows;
use crate::error::{Error, Read, Result};
use crate::file::Reader;
use crate::graph::Graph;
use crate::graph::insert::Source;
use crate::graph::query::Query;
use crate::keys::Keys;
use crate::metric::Metric;
use crate::select::RowSet;
use crate::vectors::{Codes, Vectors};

/// Below this many live rows every search is exact and no graph is kept.
pub const EXACT_BELOW: usize = 2000;

/// What never changes about an index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Params {
    /// Numbers of a vector.
    pub dim: usize,
    /// What a score means.
    pub metric: Metric,
    /// How full vectors are stored.
    pub codes: Codes,
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
    pub(crate) vectors: Vectors,
    /// Under the dot metric, the coordinate that brings each row to one length, and that length.
    pub(crate) lifts: Option<Rows<f32>>,
    pub(crate) radius: f32,
    pub(crate) keys: Keys,
    pub(crate) deleted: Arc<RowSet>,
    pub(crate) dead: usize,
    pub(crate) graph: Option<Graph>,
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
            lifts: (params.metric == Metric::Dot).then(|| Rows::new(1)),
            radius: 0.0,
            keys: Keys::default(),
            deleted: Arc::default(),
            dead: 0,
            graph: None,
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
        self.vectors.rows()
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
    pub fn row(&self, key: u64) -> Option<u32> {
        self.keys.row(key).filter(|&row| self.is_live(row))
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
            self.vectors.read(row, &mut vector)?;
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
        if let Some(graph) = &self.graph {
            graph.validate()?;
        }
        let mut vector = vec![0.0; self.params.dim];
        for row in 0..self.rows() as u32 {
            self.vectors.read(row, &mut vector)?;
            let squares = osler_kernels::sum_of_squares(&vector);
            let sound = match self.params.metric {
                Metric::Cosine => (squares - 1.0).abs() < 0.01,
                Metric::Dot | Metric::L2 => squares.is_finite(),
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

    /// Adds a prepared vector; `at` is its place in what the user gave, for messages.
    ///
    /// # Errors
    /// [`Error::Input`] if the codes cannot hold it.
    pub(crate) fn push(&mut self, vector: &[f32], at: usize) -> Result<()> {
        self.vectors.push(vector, at)?;
        if let Some(lifts) = &mut self.lifts {
            let squares = osler_kernels::sum_of_squares(vector);
            lifts.push(&[(self.radius * self.radius - squares).max(0.0).sqrt()])?;
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
                    self.radius / length
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
        self.vectors.read(row, &mut out[..dim])?;
        if let Some(lifts) = &self.lifts {
            out[dim] = lifts.value(row as usize)?;
        }
        Ok(())
    }
}
