//! Errors of the engine to Python exceptions: one match.

use std::io::ErrorKind;

use osler_core::error::{Damage, Error};
use pyo3::exceptions::{
    PyFileExistsError, PyFileNotFoundError, PyKeyError, PyKeyboardInterrupt, PyMemoryError,
    PyOSError, PyValueError,
};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};

/// The exception that a failed call raises.
pub fn exception(py: Python<'_>, error: Error) -> PyErr {
    let text = error.to_string();
    match error {
        Error::Input(_) => PyValueError::new_err(text),
        Error::MissingKey(_) => PyKeyError::new_err(text),
        Error::Memory(_) => PyMemoryError::new_err(text),
        Error::Cancelled => PyKeyboardInterrupt::new_err(text),
        Error::Io { source, .. } => match source.raw_os_error() {
            Some(number) => PyOSError::new_err((number, text)),
            None => match source.kind() {
                ErrorKind::AlreadyExists => PyFileExistsError::new_err(text),
                ErrorKind::NotFound => PyFileNotFoundError::new_err(text),
                _ => PyOSError::new_err(text),
            },
        },
        Error::Corrupt(damage) => corrupt(py, vec![*damage]),
        Error::Version { .. } | Error::Feature { .. } => ours(py, "FormatVersionError", &text),
        Error::ReadOnly
        | Error::Refused {
            code: "read_only", ..
        } => ours(py, "ReadOnlyError", &text),
        Error::Locked(_) => ours(py, "LockedError", &text),
        Error::CommitUnknown(_) => ours(py, "CommitUnknownError", &text),
        Error::Refused { code, .. } => refused(py, &text, code),
        _ => ours(py, "InternalError", &text),
    }
}

/// `CorruptIndexError` for the first of some damage, with all of it in `.findings`.
pub fn corrupt(py: Python<'_>, findings: Vec<Damage>) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let options = PyDict::new(py);
        options.set_item("findings", self::findings(py, &findings)?)?;
        let text = findings
            .first()
            .map_or_else(String::new, ToString::to_string);
        let class = py.import("osler.errors")?.getattr("CorruptIndexError")?;
        Ok(PyErr::from_value(class.call((text,), Some(&options))?))
    };
    make().unwrap_or_else(|error| error)
}

/// Damage as a list of dicts.
pub fn findings<'py>(py: Python<'py>, found: &[Damage]) -> PyResult<Bound<'py, PyList>> {
    let list = PyList::empty(py);
    for damage in found {
        let entry = PyDict::new(py);
        entry.set_item("file", &damage.file)?;
        entry.set_item("section", &damage.section)?;
        entry.set_item("offset", damage.offset)?;
        entry.set_item("problem", &damage.problem)?;
        list.append(entry)?;
    }
    Ok(list)
}

/// `Error` with a code of its own.
fn refused(py: Python<'_>, text: &str, code: &str) -> PyErr {
    let make = || -> PyResult<PyErr> {
        let options = PyDict::new(py);
        options.set_item("code", code)?;
        let class = py.import("osler.errors")?.getattr("Error")?;
        Ok(PyErr::from_value(class.call((text,), Some(&options))?))
    };
    make().unwrap_or_else(|error| error)
}

/// An exception of `osler.errors` by name.
pub fn ours(py: Python<'_>, class: &str, text: &str) -> PyErr {
    let make = || -> PyResult<PyErr> {
        Ok(PyErr::from_value(
            py.import("osler.errors")?.getattr(class)?.call1((text,))?,
        ))
    };
    make().unwrap_or_else(|error| error)
}
