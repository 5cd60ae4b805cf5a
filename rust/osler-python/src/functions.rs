//! Functions of the engine that belong to no index.

use std::sync::{Mutex, PoisonError};

use numpy::{PyArray1, PyArray2, PyArray3, PyArrayDyn, PyArrayMethods};
use osler_core::error::Result;
use osler_core::group::Items;
use osler_core::items::ItemAnswers;
use osler_core::join::{Join, Pair, Rows};
use osler_core::metric::Metric;
use osler_core::parts::{Score, rank};
use osler_core::picture::{self, Picture, Whole};
use osler_core::pool::Pool;
use osler_kernels::{Sample, Sum};
use pyo3::exceptions::{PyImportError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::results::FoundItems;
use crate::{arrays, enter};

type Arrays<'py> = (
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<i64>>,
    Bound<'py, PyArray1<f32>>,
);

/// Find all pairs of rows at or above a score, exactly.
///
/// Parameters
/// ----------
/// vectors : array of shape (n, dim), float32 or float16
/// threshold : float
///     The lowest score to report.
/// against : array of shape (m, dim), float32 or float16, optional
///     Rows whose pairs with each other are known already: only pairs with a row of `vectors` are reported. They are
///     numbered from n on.
/// metric : {"cosine", "dot", "l2"}
/// threads : int, optional
///
/// Returns
/// -------
/// rows_a, rows_b : array of int64
///     Each unordered pair once, the lower row first, sorted.
/// scores : array of float32
///     The scores that an exact search gives, bit for bit.
///
/// Raises
/// ------
/// ValueError
///
/// See Also
/// --------
/// join_batches : the same in pieces, for results that do not fit into memory.
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from osler.index import join
/// >>> join(np.array([[1, 0], [0, 1], [2, 0]], dtype=np.float32), 0.9)
/// (array([0]), array([2]), array([1.], dtype=float32))
#[pyfunction]
#[pyo3(signature = (vectors, threshold, *, against=None, metric="cosine", threads=None))]
pub fn join<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    threshold: f32,
    against: Option<&Bound<'py, PyAny>>,
    metric: &str,
    threads: Option<arrays::Whole>,
) -> PyResult<Arrays<'py>> {
    let rows = rows(vectors, threshold, against, metric)?;
    let threads = arrays::threads(threads)?;
    let pairs = enter::long(py, None, |control| {
        osler_core::join::join(rows()?, threads, &Pool::default(), control)
    })?;
    Ok(columns(py, &pairs))
}

/// Find all pairs of rows at or above a score, exactly, a batch at a time.
///
/// Takes what `join` takes. Memory is bounded by the rows, however many pairs there are.
///
/// Parameters
/// ----------
/// vectors : array of shape (n, dim), float32 or float16
/// threshold : float
/// against : array of shape (m, dim), float32 or float16, optional
/// metric : {"cosine", "dot", "l2"}
/// threads : int, optional
///
/// Returns
/// -------
/// iterator of (rows_a, rows_b, scores)
///     Every pair comes once, the lower row first, in an order that is the same at any number of threads but is not that
///     of the rows.
///
/// Raises
/// ------
/// ValueError
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from osler.index import join_batches
/// >>> rows = np.array([[1, 0], [0, 1], [2, 0]], dtype=np.float32)
/// >>> sum(len(scores) for rows_a, rows_b, scores in join_batches(rows, 0.9))
/// 1
#[pyfunction]
#[pyo3(signature = (vectors, threshold, *, against=None, metric="cosine", threads=None))]
pub fn join_batches(
    py: Python<'_>,
    vectors: &Bound<'_, PyAny>,
    threshold: f32,
    against: Option<&Bound<'_, PyAny>>,
    metric: &str,
    threads: Option<arrays::Whole>,
) -> PyResult<JoinBatches> {
    let rows = rows(vectors, threshold, against, metric)?;
    let threads = arrays::threads(threads)?;
    let pool = Pool::default();
    let join = enter::long(py, None, |control| {
        Join::new(rows()?, threads, &pool, control)
    })?;
    Ok(JoinBatches(Mutex::new((join, pool))))
}

/// The batches of `join_batches`.
#[pyclass(frozen, module = "osler._native")]
pub struct JoinBatches(Mutex<(Join, Pool)>);

#[pymethods]
impl JoinBatches {
    fn __iter__(this: PyRef<'_, Self>) -> PyRef<'_, Self> {
        this
    }

    fn __next__<'py>(&self, py: Python<'py>) -> PyResult<Option<Arrays<'py>>> {
        let batch = enter::long(py, None, |control| {
            let mut guard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (join, pool) = &mut *guard;
            join.next(pool, control)
        })?;
        Ok(batch.map(|pairs| columns(py, &pairs)))
    }
}

/// Copies the arguments; the rest is checked where the work is done.
fn rows(
    vectors: &Bound<'_, PyAny>,
    threshold: f32,
    against: Option<&Bound<'_, PyAny>>,
    metric: &str,
) -> PyResult<impl FnOnce() -> Result<Rows> + Send> {
    let matrix = arrays::matrix(vectors, "vectors", None, false)?;
    let dim = matrix.dim;
    let old = against
        .map(|against| arrays::matrix(against, "against", Some(dim), false))
        .transpose()?;
    let metric = metric.to_owned();
    Ok(move || {
        Ok(Rows {
            vectors: matrix.values,
            against: old.map(|matrix| matrix.values).unwrap_or_default(),
            dim,
            metric: Metric::parse(&metric)?,
            threshold,
        })
    })
}

fn columns<'py>(py: Python<'py>, pairs: &[Pair]) -> Arrays<'py> {
    let a = pairs.iter().map(|p| i64::from(p.0)).collect();
    let b = pairs.iter().map(|p| i64::from(p.1)).collect();
    let scores = pairs.iter().map(|p| p.2).collect();
    (
        PyArray1::from_vec(py, a),
        PyArray1::from_vec(py, b),
        PyArray1::from_vec(py, scores),
    )
}

/// Rank items by a table of part scores, as `Index.search_items` ranks them; for vectors that no index holds.
///
/// Parameters
/// ----------
/// scores : array of shape (q, n) or (n,), float32
///     The score of each part for each vector of one query; higher is nearer.
/// items : array of int64 of shape (n,)
///     The item of each part.
/// k : int
///     Items wanted.
/// score : {"max", "mean", "sum", "count", "maxsim", "median_min"}
/// groups : array of int64 of shape (n,), optional
///     At most one item comes from a group.
///
/// Returns
/// -------
/// FoundItems
///     Of one query; ``parts`` are positions in `items`.
///
/// Raises
/// ------
/// ValueError
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from osler.index import rank_items
/// >>> found = rank_items(np.array([0.9, 0.1, 0.5], dtype=np.float32), [7, 7, 8], k=2, score="mean")
/// >>> found.items, found.parts
/// (array([7, 8]), array([0, 2], dtype=uint64))
#[pyfunction]
#[pyo3(signature = (scores, items, k=arrays::Whole(10), *, score="max", groups=None),
       text_signature = "(scores, items, k=10, *, score='max', groups=None)")]
pub fn rank_items(
    py: Python<'_>,
    scores: &Bound<'_, PyAny>,
    items: &Bound<'_, PyAny>,
    k: arrays::Whole,
    score: &str,
    groups: Option<&Bound<'_, PyAny>>,
) -> PyResult<FoundItems> {
    let table = arrays::matrix(scores, "scores", None, true)?;
    let items = arrays::ids(items, "items")?;
    let groups = groups
        .map(|groups| arrays::ids(groups, "groups"))
        .transpose()?;
    let k = arrays::positive("k", &k)?;
    let answers = enter::quick(py, || {
        let items = Items::new(items.into());
        let limit = groups.as_deref().map(|groups| (groups, 1));
        let score = Score::parse(score)?;
        let found = rank(&table.values, table.rows, &items, score, k, limit)?;
        Ok(ItemAnswers {
            items: found
                .iter()
                .map(|hit| items.of_row()[hit.part() as usize])
                .collect(),
            scores: found.iter().map(|hit| hit.score()).collect(),
            parts: found.iter().map(|hit| u64::from(hit.part())).collect(),
            counts: vec![found.len() as i64],
        })
    })?;
    let k = answers.items.len();
    FoundItems::new(py, answers, k, true)
}

/// The 32-byte BLAKE3 hash of some bytes.
#[pyfunction]
pub fn blake3<'py>(py: Python<'py>, data: &Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
    let bytes = data.as_bytes();
    let hash = py.detach(|| osler_core::hash::blake3(bytes));
    PyBytes::new(py, &hash)
}

/// The first 64 bits of the BLAKE3 of each of some pieces, which lie one after another and end at `ends`.
#[pyfunction]
pub fn blake3_each<'py>(
    py: Python<'py>,
    bytes: &[u8],
    ends: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyArray1<u64>>> {
    let ends = arrays::keys(ends, "ends")?;
    let hashes = py
        .detach(|| osler_core::hash::blake3_each(bytes, &ends))
        .ok_or_else(|| PyValueError::new_err("pieces beyond the end of the bytes"))?;
    Ok(PyArray1::from_vec(py, hashes))
}

/// The 32-byte keyed BLAKE3 hash of some bytes; the key has 32 bytes.
#[pyfunction]
pub fn blake3_keyed<'py>(
    py: Python<'py>,
    key: &Bound<'py, PyBytes>,
    data: &Bound<'py, PyBytes>,
) -> PyResult<Bound<'py, PyBytes>> {
    let key: [u8; 32] = key
        .as_bytes()
        .try_into()
        .map_err(|_| PyValueError::new_err("key must have 32 bytes"))?;
    let bytes = data.as_bytes();
    let hash = py.detach(|| osler_core::hash::blake3_keyed(&key, bytes));
    Ok(PyBytes::new(py, &hash))
}

/// A pass: axis, first tap of each result, weights of shape (results, taps), bits.
type Pass<'py, T> = (
    usize,
    Bound<'py, PyArray1<u32>>,
    Bound<'py, PyArray2<<T as Sum>::Weight>>,
    u32,
);

/// A picture of shape (height, width, channels), uint8 or float32, after passes of weighted sums along its axes; weights
/// are int32 or float64.
#[pyfunction]
pub fn resample<'py>(
    picture: &Bound<'py, PyAny>,
    passes: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(bytes) = picture.cast::<PyArray3<u8>>() {
        return resampled(bytes, passes.extract()?);
    }
    resampled(picture.cast::<PyArray3<f32>>()?, passes.extract()?)
}

fn resampled<'py, T: Sample<Weight: numpy::Element> + numpy::Element>(
    picture: &Bound<'py, PyArray3<T>>,
    passes: Vec<Pass<'py, T>>,
) -> PyResult<Bound<'py, PyAny>> {
    let py = picture.py();
    let picture = copied_picture(picture)?;
    let passes = passes
        .into_iter()
        .map(|(axis, first, weights, bits)| {
            if weights.dims()[0] != first.len()? {
                return Err(PyValueError::new_err(
                    "weights have not a row for each result",
                ));
            }
            Ok(picture::Pass {
                axis,
                first: arrays::copied(&first, |x| x)?,
                weights: arrays::copied(&weights, |x| x)?,
                bits,
            })
        })
        .collect::<PyResult<Vec<_>>>()?;
    let made = enter::quick(py, || picture::resample(picture, &passes))?;
    Ok(PyArray1::from_vec(py, made.values)
        .reshape(made.shape)?
        .into_any())
}

/// The planes (planes, height, width) of a picture of shape (height, width, channels), uint8 or uint16, whose values are
/// looked up in tables of shape (planes, entries), uint8, uint16 or float32; the first entry is that of `first`.
#[pyfunction]
pub fn look_up<'py>(
    picture: &Bound<'py, PyAny>,
    tables: &Bound<'py, PyAny>,
    first: usize,
) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(bytes) = picture.cast::<PyArray3<u8>>() {
        return looked_up_in(bytes, tables, first);
    }
    looked_up_in(picture.cast::<PyArray3<u16>>()?, tables, first)
}

fn looked_up_in<'py, V: Whole + numpy::Element>(
    picture: &Bound<'py, PyArray3<V>>,
    tables: &Bound<'py, PyAny>,
    first: usize,
) -> PyResult<Bound<'py, PyAny>> {
    if let Ok(tables) = tables.cast::<PyArray2<f32>>() {
        return looked_up(picture, tables, first);
    }
    if let Ok(tables) = tables.cast::<PyArray2<u8>>() {
        return looked_up(picture, tables, first);
    }
    looked_up(picture, tables.cast::<PyArray2<u16>>()?, first)
}

fn looked_up<'py, V: Whole + numpy::Element, T: numpy::Element + Copy>(
    picture: &Bound<'py, PyArray3<V>>,
    tables: &Bound<'py, PyArray2<T>>,
    first: usize,
) -> PyResult<Bound<'py, PyAny>> {
    let py = picture.py();
    let (picture, planes) = (copied_picture(picture)?, tables.dims()[0]);
    let tables = arrays::copied(tables, |x| x)?;
    let made = enter::quick(py, || picture::look_up(&picture, first, &tables, planes))?;
    let [rows, columns, _] = picture.shape;
    Ok(PyArray1::from_vec(py, made)
        .reshape([planes, rows, columns])?
        .into_any())
}

/// How often each value of an array of uint8 or uint16 occurs: (256,) or (65536,) of int64.
#[pyfunction]
pub fn count_values<'py>(values: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyArray1<i64>>> {
    if let Ok(bytes) = values.cast::<PyArrayDyn<u8>>() {
        return counted(bytes);
    }
    counted(values.cast::<PyArrayDyn<u16>>()?)
}

fn counted<'py, V: Whole + numpy::Element>(
    values: &Bound<'py, PyArrayDyn<V>>,
) -> PyResult<Bound<'py, PyArray1<i64>>> {
    let py = values.py();
    let values = arrays::copied(values, |x| x)?;
    let counts = enter::quick(py, || Ok(picture::count(&values)))?;
    Ok(PyArray1::from_vec(py, counts))
}

fn copied_picture<T: numpy::Element + Copy>(
    picture: &Bound<'_, PyArray3<T>>,
) -> PyResult<Picture<T>> {
    let shape = picture.dims();
    Ok(Picture {
        values: arrays::copied(picture, |x| x)?,
        shape: [shape[0], shape[1], shape[2]],
    })
}

/// The SIMD level in use: "scalar", "avx2", "avx512" or "neon".
///
/// It is the best that the CPU has, unless the environment variable ``OSLER_SIMD`` lowers it. Results are the same bits
/// at every level.
///
/// Returns
/// -------
/// str
///
/// Examples
/// --------
/// >>> from osler.index import simd_level
/// >>> simd_level() in ("scalar", "avx2", "avx512", "neon")
/// True
#[pyfunction]
pub fn simd_level() -> &'static str {
    osler_kernels::level().name()
}

/// Refuses an `OSLER_SIMD` that names no level, which would otherwise go unnoticed.
pub fn check_simd_setting() -> PyResult<()> {
    let names = ["scalar", "avx2", "avx512", "neon"];
    match std::env::var("OSLER_SIMD") {
        Ok(level) if !level.is_empty() && !names.contains(&level.as_str()) => {
            Err(PyValueError::new_err(format!(
                "OSLER_SIMD is {level:?}; set it to one of {}, or unset it",
                names.join(", ")
            )))
        }
        _ => Ok(()),
    }
}

/// Refuses an interpreter beside the first one, which Python 3.11 would let in: types and locks here are the process's.
pub fn check_interpreter(py: Python<'_>) -> PyResult<()> {
    // The module that knows them has another name in later versions, which refuse by themselves; some have neither.
    let module = py.import("_xxsubinterpreters");
    let Ok(known) = module.or_else(|_| py.import("_interpreters")) else {
        return Ok(());
    };
    let current = known.call_method0("get_current")?;
    if current.eq(known.call_method0("get_main")?)? {
        return Ok(());
    }
    Err(PyImportError::new_err(
        "osler cannot be used in a sub-interpreter; use a thread or a process of its own",
    ))
}
