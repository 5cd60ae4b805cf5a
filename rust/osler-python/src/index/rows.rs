//! What `_native.Index` holds: adding, deleting, reading and naming its rows.

use std::sync::Arc;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use osler_core::group::ItemsOnce;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

use super::Index;
use crate::arrays::Whole;
use crate::sets::{Bitmap, Groups};
use crate::{arrays, enter, options};

#[pymethods]
impl Index {
    /// Add vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : array of shape (n, dim), float32 or float16, any layout
    /// keys : array of uint64 of shape (n,), optional
    ///     By default the next unused integers. A key that was deleted may be used again.
    /// threads : int, optional
    ///
    /// Returns
    /// -------
    /// array of uint64 of shape (n,)
    ///     The keys of the vectors.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For shapes, NaN or infinity, zero vectors under cosine, keys given twice or in use; nothing was added.
    /// ReadOnlyError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index(dim=2)
    /// >>> index.add(np.array([[3.0, 4.0]], dtype=np.float32), keys=[7])
    /// array([7], dtype=uint64)
    #[pyo3(signature = (vectors, keys=None, *, threads=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        threads: Option<Whole>,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let matrix = arrays::matrix(vectors, "vectors", Some(self.engine.params().dim), false)?;
        let keys = keys.map(|keys| arrays::keys(keys, "keys")).transpose()?;
        let threads = arrays::threads(threads)?;
        let size = self.engine.cost_of_add(&matrix.values);
        let keys = options::run(py, size, None, |control| {
            self.engine
                .add(matrix.values, keys.as_deref(), threads, control)
        })?;
        Ok(PyArray1::from_vec(py, keys))
    }

    /// Delete keys; they are not returned again unless they are added again.
    ///
    /// Parameters
    /// ----------
    /// keys : array of uint64 of shape (n,)
    ///     Keys that are not there are ignored.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many were there.
    ///
    /// Raises
    /// ------
    /// ReadOnlyError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(3, dtype=np.float32))
    /// >>> index.delete([1, 99]), index.keys
    /// (1, array([0, 2], dtype=uint64))
    fn delete(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<usize> {
        let keys = arrays::keys(keys, "keys")?;
        let threads = arrays::threads(None)?;
        enter::long(py, None, |control| {
            self.engine.delete(&keys, threads, control)
        })
    }

    /// The live keys, uint64 of shape (len,), in the order in which they were added.
    ///
    /// Masks and groups align with them.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let keys = enter::quick(py, || self.engine.snapshot().live_keys())?;
        Ok(PyArray1::from_vec(py, keys))
    }

    /// Prepare a filter once for many searches.
    ///
    /// Parameters
    /// ----------
    /// mask_or_keys : array of bool aligned with `keys`, or array of keys
    ///
    /// Returns
    /// -------
    /// Bitmap
    ///     Supports ``& | ~ -`` and ``len``; bound to this index; rows added later are outside it.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
    /// >>> some = index.bitmap([0, 1]) | index.bitmap(np.array([False, False, True, False]))
    /// >>> len(some), len(~some)
    /// (3, 1)
    fn bitmap(&self, py: Python<'_>, mask_or_keys: &Bound<'_, PyAny>) -> PyResult<Bitmap> {
        let state = self.engine.snapshot();
        let set = options::rows(&self.engine, py, &state, mask_or_keys, "mask_or_keys")?;
        Ok(Bitmap::new(
            self.engine.clone(),
            self.engine.bind(&state, set),
        ))
    }

    /// Prepare groups once for many searches.
    ///
    /// Parameters
    /// ----------
    /// ids : array of int64 aligned with `keys`
    ///
    /// Returns
    /// -------
    /// Groups
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
    /// >>> patients = index.groups([1, 1, 2, 2])
    /// >>> index.search(np.ones(4, dtype=np.float32), k=4, groups=patients).counts
    /// 2
    fn groups(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Groups> {
        let state = self.engine.snapshot();
        let ids = arrays::ids(ids, "ids")?;
        let groups: Arc<[i64]> = enter::quick(py, || Ok(self.engine.groups(&state, &ids)?.into()))?;
        let count = ids.iter().collect::<std::collections::HashSet<_>>().len();
        Ok(Groups {
            groups: self.engine.bind(&state, groups),
            count,
            items: ItemsOnce::default(),
        })
    }

    /// The vectors of `keys`, float32 of shape (n, dim), in the stored precision (unit length under cosine).
    ///
    /// Where full vectors are not kept, these are the approximations that their codes stand for.
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     Naming the first key that is not there.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.array([[3.0, 4.0]], dtype=np.float32))
    /// >>> index.get([0])
    /// array([[0.6, 0.8]], dtype=float32)
    fn get<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let keys = arrays::keys(keys, "keys")?;
        let values = enter::quick(py, || self.engine.get(&keys))?;
        PyArray1::from_vec(py, values).reshape([keys.len(), self.engine.params().dim])
    }

    fn __len__(&self) -> usize {
        self.engine.stats().live
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(key) = key.extract::<u64>() else {
            return Ok(false);
        };
        enter::quick(py, || Ok(self.engine.snapshot().row(key)?.is_some()))
    }

    fn __iter__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "an index is not iterable; use index.keys",
        ))
    }
}
