//! `_native.Store`, `State` and `File`: a collection directory, one state of it, and a file of its sections.
//!
//! Arrays and dicts to tables and back; what sections mean is known in `python/osler/collection`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use numpy::{Element as Number, PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use osler_core::error::Error;
use osler_core::file::Reader;
use osler_core::store::payload::{Column, Element, Table, Values};
use osler_core::store::{self, Change, New, Snapshot, recover};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

use crate::{arrays, enter, errors, storage};

/// A collection directory that is open.
#[pyclass(frozen, module = "osler._native")]
pub struct Store {
    engine: Mutex<Option<Arc<store::Store>>>,
}

/// One state of a collection directory, whose files stay as long as this is held.
#[pyclass(frozen, module = "osler._native")]
pub struct State {
    snapshot: Arc<Snapshot>,
}

/// A file of sections, mapped, each block of it verified when it is first touched.
#[pyclass(frozen, module = "osler._native")]
pub struct File {
    reader: Arc<Reader>,
}

impl Store {
    fn of(engine: store::Store) -> Self {
        Store {
            engine: Mutex::new(Some(Arc::new(engine))),
        }
    }

    fn held(&self) -> MutexGuard<'_, Option<Arc<store::Store>>> {
        self.engine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_one(&self) -> PyResult<Arc<store::Store>> {
        let held = self.held().clone();
        held.ok_or_else(|| PyValueError::new_err("the store was closed"))
    }
}

#[pymethods]
impl Store {
    /// Make a directory with a first state, and open it for writing.
    #[staticmethod]
    fn create(py: Python<'_>, path: PathBuf, state: &[u8]) -> PyResult<Self> {
        let engine = enter::quick(py, || {
            store::Store::create(storage::current(), &path, state)
        })?;
        Ok(Store::of(engine))
    }

    /// Remove a directory that nobody else knows, as far as that can be done.
    #[staticmethod]
    fn remove(py: Python<'_>, path: PathBuf) -> PyResult<()> {
        enter::quick(py, || {
            store::Store::remove(&*storage::current(), &path);
            Ok(())
        })
    }

    /// Open the newest state.
    #[staticmethod]
    fn open(py: Python<'_>, path: PathBuf, writable: bool) -> PyResult<Self> {
        let engine = enter::quick(py, || {
            store::Store::open(storage::current(), &path, writable)
        })?;
        Ok(Store::of(engine))
    }

    /// Every state that there is a manifest of, the newest first: number, content or None, and damage.
    #[staticmethod]
    fn states<'py>(py: Python<'py>, path: PathBuf) -> PyResult<Bound<'py, PyList>> {
        let found = enter::long(py, None, |control| {
            recover::states(&storage::current(), &path, &|| control.check())
        })?;
        let list = PyList::empty(py);
        for one in found {
            let content = one.state.map(|state| PyBytes::new(py, &state));
            list.append((one.number, content, errors::findings(py, &one.damage)?))?;
        }
        Ok(list)
    }

    /// Put the state of an earlier commit in force again; returns its new number.
    #[staticmethod]
    fn recover(py: Python<'_>, path: PathBuf, to: u64) -> PyResult<u64> {
        enter::long(py, None, |control| {
            recover::recover(&storage::current(), &path, to, &|| control.check())
        })
    }

    /// Release the lock.
    fn close(&self, py: Python<'_>) {
        let engine = self.held().take();
        py.detach(|| drop(engine));
    }

    /// Raise unless a commit may be tried.
    fn check_writable(&self, py: Python<'_>) -> PyResult<()> {
        let engine = self.open_one()?;
        enter::quick(py, || engine.check_writable())
    }

    /// Random id of the directory, in hex.
    #[getter]
    fn id(&self) -> PyResult<String> {
        Ok(format!("{:032x}", self.open_one()?.collection()))
    }

    /// The state in force.
    fn state(&self) -> PyResult<State> {
        Ok(State {
            snapshot: self.open_one()?.snapshot(),
        })
    }

    /// 128 random bits in hex, for the name of a file.
    fn random(&self, py: Python<'_>) -> PyResult<String> {
        let engine = self.open_one()?;
        enter::quick(py, || Ok(format!("{:032x}", engine.random()?)))
    }

    /// Where a file that another writes may lie until it is committed.
    fn draft_path(&self, py: Python<'_>) -> PyResult<PathBuf> {
        let engine = self.open_one()?;
        enter::quick(py, || engine.draft_path())
    }

    /// Publish a new state, durable when this returns.
    ///
    /// Parameters
    /// ----------
    /// parent : int
    ///     Number of the state that this one follows.
    /// state : bytes
    /// new : dict of str to (str or list of (str, value))
    ///     Files by name: the path of a draft, or sections, each with bytes, an array, or a list of (File, rows).
    /// drop : list of str
    /// forget : bool
    ///     No earlier state may be kept, nor what only it lists.
    #[pyo3(signature = (parent, state, new, drop, forget=false))]
    fn commit(
        &self,
        py: Python<'_>,
        parent: u64,
        state: &[u8],
        new: &Bound<'_, PyDict>,
        drop: Vec<String>,
        forget: bool,
    ) -> PyResult<()> {
        let engine = self.open_one()?;
        let mut tables = BTreeMap::new();
        let mut drafts = BTreeMap::new();
        for (name, content) in new {
            let name: String = name.extract()?;
            if content.is_instance_of::<PyString>() {
                drafts.insert(name, content.extract::<PathBuf>()?);
                continue;
            }
            let mut own = Vec::new();
            for entry in content.try_iter()? {
                let (section, value): (String, Bound<'_, PyAny>) = entry?.extract()?;
                own.push(table(py, &section, &value)?);
            }
            tables.insert(name, own);
        }
        enter::long(py, None, |control| {
            let drafts = drafts.into_iter();
            let mut new: BTreeMap<_, _> = drafts.map(|(n, path)| (n, New::Draft(path))).collect();
            for (name, own) in &tables {
                let sections = own.iter().map(Table::section).collect();
                new.insert(name.clone(), New::Sections(sections));
            }
            let change = Change {
                parent: Some(parent),
                state: state.to_vec(),
                new,
                drop,
                forget,
            };
            engine.commit(change, &|| control.check())
        })
    }
}

#[pymethods]
impl State {
    /// Number of the commit.
    #[getter]
    fn number(&self) -> u64 {
        self.snapshot.manifest().number
    }

    /// Random id of the commit, in hex.
    #[getter]
    fn id(&self) -> String {
        format!("{:032x}", self.snapshot.manifest().id)
    }

    /// What the owner keeps in the manifest.
    #[getter]
    fn content<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.snapshot.manifest().state)
    }

    /// Bytes of each listed file.
    #[getter]
    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let files = PyDict::new(py);
        for (name, listed) in &self.snapshot.manifest().files {
            files.set_item(name, listed.bytes)?;
        }
        Ok(files)
    }

    /// Open a listed file.
    fn file(&self, py: Python<'_>, name: &str) -> PyResult<File> {
        let reader = enter::quick(py, || self.snapshot.reader(name))?;
        Ok(File { reader })
    }

    /// Read every byte of every file again and return all damage.
    fn verify<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyList>> {
        let found = enter::long(py, None, |control| {
            self.snapshot.verify(&|| control.check())
        })?;
        errors::findings(py, &found)
    }
}

#[pymethods]
impl File {
    /// Whether there is a section of this name.
    fn __contains__(&self, section: &str) -> PyResult<bool> {
        column(section).map(|column| column.is_in(&self.reader))
    }

    /// Rows of a section, and elements of a row.
    fn shape(&self, py: Python<'_>, section: &str) -> PyResult<(usize, usize)> {
        enter::quick(py, || Column::named(section)?.shape(&self.reader))
    }

    /// Rows of a section from `start` up to `stop`, by default to its end.
    #[pyo3(signature = (section, start=0, stop=None))]
    fn read<'py>(
        &self,
        py: Python<'py>,
        section: &str,
        start: usize,
        stop: Option<usize>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let (values, width) = enter::quick(py, || {
            let column = Column::named(section)?;
            let (rows, width) = column.shape(&self.reader)?;
            let values = column.range(&self.reader, start, stop.unwrap_or(rows))?;
            Ok((values, width))
        })?;
        array(py, values, width, column(section)?)
    }

    /// Rows of a section in the order asked.
    fn rows<'py>(
        &self,
        py: Python<'py>,
        section: &str,
        rows: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let wanted = arrays::keys(rows, "rows")?;
        let (values, width) = enter::quick(py, || {
            let column = Column::named(section)?;
            let width = column.shape(&self.reader)?.1;
            Ok((column.gather(&self.reader, &wanted)?, width))
        })?;
        array(py, values, width, column(section)?)
    }

    /// The error for a section whose bytes are what was written and make no sense.
    fn damage(&self, py: Python<'_>, section: &str, problem: &str) -> PyResult<Py<PyAny>> {
        let kind = column(section)?.kind();
        let error = self.reader.damage(kind, problem);
        Ok(errors::exception(py, error).into_value(py).into_any())
    }
}

fn column(section: &str) -> PyResult<Column> {
    Column::named(section).map_err(|error| PyValueError::new_err(error.to_string()))
}

/// Forget locks of the parent, in a child that was just forked.
#[pyfunction]
pub fn forget_locks() {
    osler_core::fs::real::forget_locks();
}

fn array(
    py: Python<'_>,
    values: Values,
    width: usize,
    column: Column,
) -> PyResult<Bound<'_, PyAny>> {
    fn shaped<T: Number>(
        py: Python<'_>,
        values: Vec<T>,
        width: usize,
        flat: bool,
    ) -> PyResult<Bound<'_, PyAny>> {
        let rows = values.len() / width;
        let array = PyArray1::from_vec(py, values);
        if flat {
            return Ok(array.into_any());
        }
        Ok(array.reshape([rows, width])?.into_any())
    }
    let flat = column.width == 1;
    match values {
        Values::U8(values) => shaped(py, values, width, flat),
        Values::U32(values) => shaped(py, values, width, flat),
        Values::U64(values) => shaped(py, values, width, flat),
        Values::F32(values) => shaped(py, values, width, flat),
    }
}

/// The section that Python describes by bytes, an array, or rows of files.
fn table(py: Python<'_>, section: &str, value: &Bound<'_, PyAny>) -> PyResult<Table> {
    if let Ok(sources) = value.cast::<PyList>() {
        let mut found = Vec::with_capacity(sources.len());
        for source in sources {
            let (file, rows): (Bound<'_, File>, Bound<'_, PyAny>) = source.extract()?;
            found.push((file.get().reader.clone(), arrays::keys(&rows, "rows")?));
        }
        return enter::quick(py, || {
            let width = match found.first() {
                Some((reader, _)) => Column::named(section)?.shape(reader)?.1,
                None => return Err(Error::input("no rows to copy")),
            };
            Table::of_vectors(width, found)
        });
    }
    let (values, width) = if let Ok(bytes) = value.cast::<PyBytes>() {
        // They do not change, so other threads may run meanwhile.
        let bytes = bytes.as_bytes();
        (Values::U8(enter::quick(py, || Ok(bytes.to_vec()))?), 1)
    } else {
        match column(section)?.element {
            Element::U8 => numbers(section, value, Values::U8)?,
            Element::U32 => numbers(section, value, Values::U32)?,
            Element::U64 => numbers(section, value, Values::U64)?,
            Element::F32 => numbers(section, value, Values::F32)?,
        }
    };
    enter::quick(py, || Table::of_values(section, &values, width))
}

fn numbers<T: Number + Copy>(
    section: &str,
    value: &Bound<'_, PyAny>,
    make: fn(Vec<T>) -> Values,
) -> PyResult<(Values, usize)> {
    let array = value.cast::<PyArrayDyn<T>>().map_err(|_| {
        PyValueError::new_err(format!("the section {section} consists of other numbers"))
    })?;
    let width = array.shape().get(1).copied().unwrap_or(1);
    Ok((make(arrays::copied(array, |x| x)?), width))
}
