//! `_native.Bitmap` and `_native.Groups`: what is prepared once and used by many searches of one index.

use std::sync::Arc;

use osler_core::error::Result;
use osler_core::group::ItemsOnce;
use osler_core::index::{Index as Engine, Prepared};
use osler_core::select::{RowSet, SetOnce};
use osler_core::state::State;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::enter;

/// A set of rows of one index, made by `Index.bitmap`, for the `filter` of its searches.
///
/// Supports ``&``, ``|``, ``-``, ``~`` and ``len``. Rows that are added later are outside it, rows that are deleted
/// leave it.
///
/// Examples
/// --------
/// >>> import numpy as np, osler
/// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
/// >>> old, female = index.bitmap([0, 1, 2]), index.bitmap([2, 3])
/// >>> index.search(np.ones(4, dtype=np.float32), filter=old & female).counts
/// 1
/// >>> len(old - female)
/// 2
#[pyclass(frozen, module = "osler", name = "Bitmap")]
pub struct Bitmap {
    pub engine: Arc<Engine>,
    set: Prepared<RowSet>,
    live: SetOnce,
}

impl Bitmap {
    /// The bitmap of a set that `engine` prepared.
    pub fn new(engine: Arc<Engine>, set: Prepared<RowSet>) -> Self {
        let live = SetOnce::default();
        Bitmap { engine, set, live }
    }

    /// The rows that it holds in a snapshot of `engine`.
    pub fn rows(&self, engine: &Engine, state: &State) -> Result<Arc<RowSet>> {
        engine.prepared_set(state, &self.set, &self.live)
    }

    fn combine(
        &self,
        py: Python<'_>,
        other: &Bitmap,
        how: impl Fn(u64, u64) -> u64 + Send,
    ) -> PyResult<Bitmap> {
        if !Arc::ptr_eq(&self.engine, &other.engine) {
            return Err(PyValueError::new_err(
                "these bitmaps belong to two indexes; prepare both with the same one",
            ));
        }
        let set = enter::quick(py, || {
            let state = self.engine.snapshot();
            let left = self.rows(&self.engine, &state)?;
            let right = other.rows(&self.engine, &state)?;
            Ok(self.engine.bind(&state, left.combine(&right, how)))
        })?;
        Ok(Bitmap::new(self.engine.clone(), set))
    }
}

#[pymethods]
impl Bitmap {
    fn __and__(&self, py: Python<'_>, other: &Bitmap) -> PyResult<Bitmap> {
        self.combine(py, other, |a, b| a & b)
    }

    fn __or__(&self, py: Python<'_>, other: &Bitmap) -> PyResult<Bitmap> {
        self.combine(py, other, |a, b| a | b)
    }

    fn __sub__(&self, py: Python<'_>, other: &Bitmap) -> PyResult<Bitmap> {
        self.combine(py, other, |a, b| a & !b)
    }

    fn __invert__(&self, py: Python<'_>) -> PyResult<Bitmap> {
        let set = enter::quick(py, || {
            let state = self.engine.snapshot();
            let own = self.rows(&self.engine, &state)?;
            let others = state.live_set().combine(&own, |all, own| all & !own);
            Ok(self.engine.bind(&state, others))
        })?;
        Ok(Bitmap::new(self.engine.clone(), set))
    }

    fn __len__(&self, py: Python<'_>) -> PyResult<usize> {
        enter::quick(py, || {
            Ok(self.rows(&self.engine, &self.engine.snapshot())?.count())
        })
    }

    fn __repr__(&self, py: Python<'_>) -> PyResult<String> {
        Ok(format!("<osler.Bitmap of {} rows>", self.__len__(py)?))
    }
}

/// Groups of the rows of one index, made by `Index.groups`, for `groups`, `exclude_by` and `items` of its searches.
///
/// Examples
/// --------
/// >>> import numpy as np, osler
/// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
/// >>> index.groups([1, 1, 2, 2])
/// <osler.Groups 2 groups>
#[pyclass(frozen, module = "osler", name = "Groups")]
pub struct Groups {
    pub groups: Prepared<Arc<[i64]>>,
    pub count: usize,
    /// Made by the first search for items.
    pub items: ItemsOnce,
}

#[pymethods]
impl Groups {
    fn __repr__(&self) -> String {
        format!("<osler.Groups {} groups>", self.count)
    }
}
