//! Which storage calls from Python use: the real one, but for a build for tests, where one may be put in its place; and
//! the small files that Python keeps by it.

use std::path::PathBuf;
use std::sync::Arc;

use osler_core::fs::real::Real;
use osler_core::fs::{Storage, private};
use pyo3::prelude::*;

use crate::enter;

/// The storage of this process.
pub fn current() -> Arc<dyn Storage> {
    #[cfg(feature = "testing")]
    if let Some(other) = crate::testing::storage() {
        return other;
    }
    Arc::new(Real)
}

/// Make a small file for its owner only unless there is one; return what lies there, whole and durable.
#[pyfunction]
pub fn keep_private(py: Python<'_>, path: PathBuf, bytes: &[u8]) -> PyResult<Vec<u8>> {
    enter::quick(py, || private::keep(&*current(), &path, bytes))
}

/// Return the first 4,096 bytes of a file.
#[pyfunction]
pub fn read_private(py: Python<'_>, path: PathBuf) -> PyResult<Vec<u8>> {
    enter::quick(py, || private::read(&*current(), &path))
}

/// Remove a file, if it is there.
#[pyfunction]
pub fn remove_private(py: Python<'_>, path: PathBuf) -> PyResult<()> {
    enter::quick(py, || private::remove(&*current(), &path))
}
