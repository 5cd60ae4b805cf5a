//! The compiled module `osler._native`: a list of exports, nothing else.
#![allow(
    missing_docs,
    reason = "the public documentation is in the Python docstrings"
)]

mod arrays;
mod enter;
mod errors;
mod functions;
mod index;
mod options;
mod results;
mod sets;
mod stats;
mod storage;
mod store;
#[cfg(feature = "testing")]
mod testing;

use pyo3::prelude::*;

#[pymodule]
fn _native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    functions::check_interpreter(module.py())?;
    functions::check_simd_setting()?;
    #[cfg(feature = "testing")]
    testing::add(module)?;
    module.add_class::<index::Index>()?;
    module.add_class::<results::Found>()?;
    module.add_class::<results::FoundItems>()?;
    module.add_class::<results::Pairs>()?;
    module.add_class::<sets::Bitmap>()?;
    module.add_class::<sets::Groups>()?;
    module.add_class::<store::Store>()?;
    module.add_class::<store::State>()?;
    module.add_class::<store::File>()?;
    module.add_function(wrap_pyfunction!(store::forget_locks, module)?)?;
    module.add_function(wrap_pyfunction!(storage::keep_private, module)?)?;
    module.add_function(wrap_pyfunction!(storage::read_private, module)?)?;
    module.add_function(wrap_pyfunction!(storage::remove_private, module)?)?;
    module.add_function(wrap_pyfunction!(functions::join, module)?)?;
    module.add_function(wrap_pyfunction!(functions::rank_items, module)?)?;
    module.add_function(wrap_pyfunction!(functions::join_batches, module)?)?;
    module.add_function(wrap_pyfunction!(functions::blake3, module)?)?;
    module.add_function(wrap_pyfunction!(functions::blake3_each, module)?)?;
    module.add_function(wrap_pyfunction!(functions::blake3_keyed, module)?)?;
    module.add_function(wrap_pyfunction!(functions::count_values, module)?)?;
    module.add_function(wrap_pyfunction!(functions::look_up, module)?)?;
    module.add_function(wrap_pyfunction!(functions::resample, module)?)?;
    module.add_function(wrap_pyfunction!(functions::simd_level, module)?)
}
