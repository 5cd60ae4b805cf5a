//! The compiled module.
#![allow(missing_docs)]
use pyo3::prelude::*;

#[pymodule]
fn _native(m: &Bound<'_, PyModule>) -> PyResult<()> {
    m.add("SIMD", "none")
}
