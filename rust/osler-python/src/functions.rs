//! Functions of the engine that belong to no index.

use numpy::PyArray1;
use osler_core::metric::Metric;
use osler_core::pool::Pool;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

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
/// metric : {"cosine", "dot", "l2"}
/// threads : int, optional
///
/// Returns
/// -------
/// rows_a, rows_b : array of int64
///     Each unordered pair once, the lower row first, sorted.
/// scores : array of float32
///
/// Raises
/// ------
/// ValueError
///
/// Examples
/// --------
/// >>> import numpy as np
/// >>> from osler.index import join
/// >>> join(np.array([[1, 0], [0, 1], [2, 0]], dtype=np.float32), 0.9)
/// (array([0]), array([2]), array([1.], dtype=float32))
#[pyfunction]
#[pyo3(signature = (vectors, threshold, *, metric="cosine", threads=None))]
pub fn join<'py>(
    py: Python<'py>,
    vectors: &Bound<'py, PyAny>,
    threshold: f32,
    metric: &str,
    threads: Option<arrays::Whole>,
) -> PyResult<Arrays<'py>> {
    let matrix = arrays::matrix(vectors, "vectors", None, false)?;
    let threads = arrays::threads(threads)?;
    let pairs = enter::long(py, None, |control| {
        let metric = Metric::parse(metric)?;
        osler_core::join::join(
            matrix.values,
            matrix.dim,
            metric,
            threshold,
            threads,
            &Pool::default(),
            control,
        )
    })?;
    let a = pairs.iter().map(|p| i64::from(p.0)).collect();
    let b = pairs.iter().map(|p| i64::from(p.1)).collect();
    let scores = pairs.iter().map(|p| p.2).collect();
    Ok((
        PyArray1::from_vec(py, a),
        PyArray1::from_vec(py, b),
        PyArray1::from_vec(py, scores),
    ))
}

/// The 32-byte BLAKE3 hash of some bytes.
#[pyfunction]
pub fn blake3<'py>(py: Python<'py>, data: &Bound<'py, PyBytes>) -> Bound<'py, PyBytes> {
    let bytes = data.as_bytes();
    let hash = py.detach(|| osler_core::hash::blake3(bytes));
    PyBytes::new(py, &hash)
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
