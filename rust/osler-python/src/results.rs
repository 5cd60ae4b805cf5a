//! `_native.Found` and `_native.Pairs`: named arrays that a search returns.

use numpy::{PyArray1, PyArrayMethods};
use osler_core::items::ItemAnswers;
use osler_core::query::Answers;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;

/// What `Index.search` found: named arrays, which cannot be mixed up by unpacking.
///
/// Attributes
/// ----------
/// keys : array of uint64, (m, k) or (k,)
/// scores : array of float32, (m, k) or (k,)
///     Descending.
/// counts : array of int64, (m,), or int
///     How many hits are real; the rest are key 2**64-1 and score -inf.
///
/// Examples
/// --------
/// >>> import numpy as np, osler
/// >>> osler.Index.build(np.eye(3, dtype=np.float32)).search(np.ones(3, dtype=np.float32), k=2)
/// <osler.Found 1 query, k=2>
#[pyclass(frozen, module = "osler", name = "Found")]
pub struct Found {
    #[pyo3(get)]
    keys: Py<PyAny>,
    #[pyo3(get)]
    scores: Py<PyAny>,
    #[pyo3(get)]
    counts: Py<PyAny>,
    rows: usize,
    k: usize,
}

impl Found {
    pub fn new(
        py: Python<'_>,
        answers: Answers,
        rows: usize,
        k: usize,
        single: bool,
    ) -> PyResult<Self> {
        let Answers {
            keys,
            scores,
            counts,
        } = answers;
        let counts = if single {
            counts[0].into_pyobject(py)?.into_any().unbind()
        } else {
            PyArray1::from_vec(py, counts).into_any().unbind()
        };
        Ok(Found {
            keys: shaped(py, keys, rows, k, single)?,
            scores: shaped(py, scores, rows, k, single)?,
            counts,
            rows,
            k,
        })
    }
}

#[pymethods]
impl Found {
    fn __iter__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a result does not unpack; use its arrays: .keys, .scores, .counts",
        ))
    }

    fn __repr__(&self) -> String {
        let queries = if self.rows == 1 { "query" } else { "queries" };
        format!("<osler.Found {} {queries}, k={}>", self.rows, self.k)
    }
}

/// What `Index.search_items` found: named arrays, which cannot be mixed up by unpacking.
///
/// Attributes
/// ----------
/// items : array of int64, (m, k) or (k,)
/// scores : array of float32, (m, k) or (k,)
///     Descending.
/// parts : array of uint64, (m, k) or (k,)
///     Key of each item's best part.
/// counts : array of int64, (m,), or int
///     How many hits are real; the rest are item -1, score -inf and part 2**64-1.
///
/// Examples
/// --------
/// >>> import numpy as np, osler
/// >>> osler.Index.build(np.eye(3, dtype=np.float32)).search_items(np.ones(3, dtype=np.float32), [1, 1, 2], k=2)
/// <osler.FoundItems 1 query, k=2>
#[pyclass(frozen, module = "osler", name = "FoundItems")]
pub struct FoundItems {
    #[pyo3(get)]
    items: Py<PyAny>,
    #[pyo3(get)]
    scores: Py<PyAny>,
    #[pyo3(get)]
    parts: Py<PyAny>,
    #[pyo3(get)]
    counts: Py<PyAny>,
    queries: usize,
    k: usize,
}

impl FoundItems {
    pub fn new(py: Python<'_>, answers: ItemAnswers, k: usize, single: bool) -> PyResult<Self> {
        let ItemAnswers {
            items,
            scores,
            parts,
            counts,
        } = answers;
        let queries = counts.len();
        let first = counts.first().copied();
        let counts = match (single, first) {
            (true, Some(count)) => count.into_pyobject(py)?.into_any().unbind(),
            _ => PyArray1::from_vec(py, counts).into_any().unbind(),
        };
        Ok(FoundItems {
            items: shaped(py, items, queries, k, single)?,
            scores: shaped(py, scores, queries, k, single)?,
            parts: shaped(py, parts, queries, k, single)?,
            counts,
            queries,
            k,
        })
    }
}

/// An array of k columns a query, or of one query without a leading axis.
fn shaped<T: numpy::Element>(
    py: Python<'_>,
    values: Vec<T>,
    queries: usize,
    k: usize,
    single: bool,
) -> PyResult<Py<PyAny>> {
    let array = PyArray1::from_vec(py, values);
    if single {
        return Ok(array.into_any().unbind());
    }
    Ok(array.reshape([queries, k])?.into_any().unbind())
}

#[pymethods]
impl FoundItems {
    fn __iter__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a result does not unpack; use its arrays: .items, .scores, .parts, .counts",
        ))
    }

    fn __repr__(&self) -> String {
        let queries = if self.queries == 1 {
            "query"
        } else {
            "queries"
        };
        format!(
            "<osler.FoundItems {} {queries}, k={}>",
            self.queries, self.k
        )
    }
}

/// What `Index.search_range` found, ragged: query i has the entries ``offsets[i]:offsets[i + 1]``.
///
/// Attributes
/// ----------
/// keys : array of uint64, (total,)
/// scores : array of float32, (total,)
///     Descending within a query.
/// offsets : array of int64, (m + 1,)
///
/// Examples
/// --------
/// >>> import numpy as np, osler
/// >>> osler.Index.build(np.eye(3, dtype=np.float32)).search_range(np.eye(3, dtype=np.float32), 0.5)
/// <osler.Pairs 3 in all for 3 queries>
#[pyclass(frozen, module = "osler", name = "Pairs")]
pub struct Pairs {
    #[pyo3(get)]
    keys: Py<PyArray1<u64>>,
    #[pyo3(get)]
    scores: Py<PyArray1<f32>>,
    #[pyo3(get)]
    offsets: Py<PyArray1<i64>>,
    total: usize,
    queries: usize,
}

impl Pairs {
    pub fn new(py: Python<'_>, found: Vec<Vec<(u64, f32)>>) -> Self {
        let mut offsets = vec![0];
        for pairs in &found {
            offsets.push(offsets[offsets.len() - 1] + pairs.len() as i64);
        }
        let queries = found.len();
        let (keys, scores): (Vec<u64>, Vec<f32>) = found.into_iter().flatten().unzip();
        let total = keys.len();
        Pairs {
            keys: PyArray1::from_vec(py, keys).unbind(),
            scores: PyArray1::from_vec(py, scores).unbind(),
            offsets: PyArray1::from_vec(py, offsets).unbind(),
            total,
            queries,
        }
    }
}

#[pymethods]
impl Pairs {
    fn __iter__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "a result does not unpack; use its arrays: .keys, .scores, .offsets",
        ))
    }

    fn __repr__(&self) -> String {
        format!(
            "<osler.Pairs {} in all for {} queries>",
            self.total, self.queries
        )
    }
}
