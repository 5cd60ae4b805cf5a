//! Arguments of `Index` to values of the engine: filters, groups, progress, and what runs beside a watch for Ctrl-C.

use std::sync::Arc;

use osler_core::group::Items;
use osler_core::index::Index as Engine;
use osler_core::pool::Control;
use osler_core::select::RowSet;
use osler_core::state::State;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::sets::{Bitmap, Groups};
use crate::{arrays, enter};

/// Work of more multiplications than this, some milliseconds, runs beside a watch for Ctrl-C.
const LONG_FROM: usize = 1 << 25;

/// Runs work of about `size` multiplications; beside a watch for Ctrl-C if they are many or progress is shown.
pub fn run<R: Send>(
    py: Python<'_>,
    size: usize,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Control) -> osler_core::error::Result<R> + Send,
) -> PyResult<R> {
    if size < LONG_FROM && progress.is_none() {
        enter::quick(py, || work(&Control::default()))
    } else {
        enter::long(py, progress, work)
    }
}

/// The rows that a search may return; None: all.
pub fn filter(
    engine: &Engine,
    py: Python<'_>,
    state: &State,
    filter: Option<&Bound<'_, PyAny>>,
) -> PyResult<Option<Arc<RowSet>>> {
    let Some(filter) = filter else {
        return Ok(None);
    };
    if let Ok(bitmap) = filter.cast::<Bitmap>() {
        let bitmap = bitmap.get();
        return enter::quick(py, || bitmap.rows(engine, state)).map(Some);
    }
    let rows = rows(engine, py, state, filter, "filter")?;
    Ok(Some(Arc::new(rows)))
}

/// The rows of a mask or of keys.
pub fn rows(
    engine: &Engine,
    py: Python<'_>,
    state: &State,
    value: &Bound<'_, PyAny>,
    name: &str,
) -> PyResult<RowSet> {
    if let Some(mask) = arrays::mask(value, name)? {
        return enter::quick(py, || engine.mask(state, &mask));
    }
    let keys = arrays::keys(value, name)?;
    enter::quick(py, || engine.keyed(state, &keys))
}

/// The group of each row, where groups are given.
pub fn grouping(
    engine: &Engine,
    py: Python<'_>,
    state: &State,
    value: Option<&Bound<'_, PyAny>>,
    name: &str,
) -> PyResult<Option<Arc<[i64]>>> {
    let Some(value) = value else {
        return Ok(None);
    };
    if let Ok(groups) = value.cast::<Groups>() {
        let groups = &groups.get().groups;
        return enter::quick(py, || engine.prepared_groups(state, groups).map(Some));
    }
    let ids = arrays::ids(value, name)?;
    enter::quick(py, || Ok(Some(engine.groups(state, &ids)?.into())))
}

/// Rows as parts of items.
pub fn items(
    engine: &Engine,
    py: Python<'_>,
    state: &State,
    value: &Bound<'_, PyAny>,
) -> PyResult<Arc<Items>> {
    if let Ok(groups) = value.cast::<Groups>() {
        let Groups { groups, items, .. } = groups.get();
        return enter::quick(py, || engine.prepared_items(state, groups, items));
    }
    let ids = arrays::ids(value, "items")?;
    enter::quick(py, || {
        Ok(Arc::new(Items::new(engine.groups(state, &ids)?.into())))
    })
}

/// The excluded group of each query and the group of each row, if any group is excluded.
pub fn excluded<'a>(
    ids: Option<&'a [i64]>,
    exclude_by: Option<&'a [i64]>,
    otherwise: Option<&'a [i64]>,
    queries: usize,
) -> PyResult<Option<(&'a [i64], &'a [i64])>> {
    match (ids, exclude_by.or(otherwise)) {
        (None, _) if exclude_by.is_none() => Ok(None),
        (None, _) => Err(PyValueError::new_err(
            "exclude_by needs exclude_groups: one id for each query",
        )),
        (Some(_), None) => Err(PyValueError::new_err(
            "exclude_groups needs groups or exclude_by",
        )),
        (Some(ids), Some(_)) if ids.len() != queries => Err(PyValueError::new_err(format!(
            "exclude_groups has {} ids for {queries} queries; give one for each, -1 for none",
            ids.len(),
        ))),
        (Some(ids), Some(groups)) => Ok(Some((groups, ids))),
    }
}

/// A callback for progress: the user's own, or a bar.
pub fn with_progress<R>(
    py: Python<'_>,
    progress: &Bound<'_, PyAny>,
    verb: &str,
    run: impl FnOnce(Option<&Bound<'_, PyAny>>) -> PyResult<R>,
) -> PyResult<R> {
    if progress.is_none() || (!progress.is_callable() && !progress.is_truthy()?) {
        return run(None);
    }
    let bar = py
        .import("osler.progress")?
        .call_method1("track", (progress, verb, 0))?;
    let callback = bar.call_method0("__enter__")?;
    let result = run(Some(&callback));
    bar.call_method1("__exit__", (py.None(), py.None(), py.None()))?;
    result
}
