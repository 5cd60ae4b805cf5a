//! NumPy arrays in, copied and checked, with errors that name the argument; and how many threads a call may use.

use half::f16;
use numpy::{PyArray1, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyInt, PyList, PyTuple};

/// Vectors of one call, row-major.
pub struct Matrix {
    /// All numbers.
    pub values: Vec<f32>,
    /// Number of vectors.
    pub rows: usize,
    /// Numbers of a vector.
    pub dim: usize,
    /// Whether the caller gave one vector without a leading axis.
    pub single: bool,
}

fn invalid(text: String) -> PyErr {
    PyValueError::new_err(text)
}

/// `numpy.asarray(value)`, with a message that names the argument.
fn asarray<'py>(value: &Bound<'py, PyAny>, name: &str) -> PyResult<Bound<'py, PyAny>> {
    let py = value.py();
    py.import("numpy")?
        .call_method1("asarray", (value,))
        .map_err(|error| {
            if error.is_instance_of::<PyValueError>(py)
                || error.is_instance_of::<pyo3::exceptions::PyTypeError>(py)
            {
                invalid(format!(
                    "{name} is no array of numbers with equal rows; give an array of shape (n, dim)"
                ))
            } else {
                error
            }
        })
}

fn kind(array: &Bound<'_, PyAny>) -> PyResult<char> {
    array.getattr("dtype")?.getattr("kind")?.extract()
}

fn copied<T: numpy::Element + Copy, R>(
    array: &Bound<'_, PyArrayDyn<T>>,
    convert: impl Fn(T) -> R,
) -> Vec<R> {
    let in_order = array.is_c_contiguous();
    let array = array.readonly();
    match array.as_slice() {
        Ok(slice) if in_order => slice.iter().map(|&x| convert(x)).collect(),
        _ => array.as_array().iter().map(|&x| convert(x)).collect(),
    }
}

/// Vectors of `dim` numbers (any, if None) from anything that NumPy takes; one vector only where `allow_single`.
pub fn matrix(
    value: &Bound<'_, PyAny>,
    name: &str,
    dim: Option<usize>,
    allow_single: bool,
) -> PyResult<Matrix> {
    let py = value.py();
    let (values, shape) = if let Ok(array) = value.cast::<PyArrayDyn<f32>>() {
        (copied(array, |x| x), array.shape().to_vec())
    } else if let Ok(array) = value.cast::<PyArrayDyn<f16>>() {
        (copied(array, f16::to_f32), array.shape().to_vec())
    } else {
        let array = asarray(value, name)?;
        if !matches!(kind(&array)?, 'f' | 'i' | 'u') {
            let dtype: String = array.getattr("dtype")?.str()?.extract()?;
            return Err(invalid(format!(
                "{name} has dtype {dtype}; give float32 or float16 numbers"
            )));
        }
        // What overflows float32 becomes infinite and is refused with the other values that are not finite.
        let options = pyo3::types::PyDict::new(py);
        options.set_item("all", "ignore")?;
        let quiet = py
            .import("numpy")?
            .getattr("errstate")?
            .call((), Some(&options))?;
        quiet.call_method0("__enter__")?;
        let converted = array.call_method1("astype", ("float32",));
        quiet.call_method1("__exit__", (py.None(), py.None(), py.None()))?;
        let array = converted?.cast_into::<PyArrayDyn<f32>>()?;
        (copied(&array, |x| x), array.shape().to_vec())
    };
    let (rows, columns, single) = match shape[..] {
        [columns] if allow_single => (1, columns, true),
        [rows, columns] => (rows, columns, false),
        _ => {
            let also = if allow_single { " or (dim,)" } else { "" };
            let shape: Vec<String> = shape.iter().map(ToString::to_string).collect();
            return Err(invalid(format!(
                "{name} has shape ({}); give shape (n, dim){also}",
                shape.join(", ")
            )));
        }
    };
    if let Some(dim) = dim
        && columns != dim
        && !(rows == 0 && columns == 0)
    {
        return Err(invalid(format!(
            "{name} has {columns} columns, this index has dim {dim}; pass the encoder's output unchanged"
        )));
    }
    Ok(Matrix {
        values,
        rows,
        dim: dim.unwrap_or(columns),
        single,
    })
}

fn not_whole(name: &str, dtype: &str) -> PyErr {
    invalid(format!(
        "{name} must be one-dimensional whole numbers that fit {dtype}"
    ))
}

/// Whole numbers from anything that NumPy takes.
fn integers<T: numpy::Element + Copy>(
    value: &Bound<'_, PyAny>,
    name: &str,
    dtype: &str,
) -> PyResult<Vec<T>> {
    if let Ok(array) = value.cast::<PyArray1<T>>() {
        return Ok(array.readonly().as_array().iter().copied().collect());
    }
    let py = value.py();
    let numpy = py.import("numpy")?;
    // NumPy makes float64 of a list with numbers on both sides of 2**63, unless it is told what they are.
    let listed = value.is_instance_of::<PyList>() || value.is_instance_of::<PyTuple>();
    let whole =
        |item: PyResult<Bound<'_, PyAny>>| item.is_ok_and(|item| item.is_instance_of::<PyInt>());
    let array = if listed && value.try_iter()?.all(whole) {
        numpy
            .call_method1("asarray", (value, dtype))
            .map_err(|_| not_whole(name, dtype))?
    } else {
        asarray(value, name)?
    };
    let array = numpy.call_method1("atleast_1d", (array,))?;
    let size: usize = array.getattr("size")?.extract()?;
    let wrong = || not_whole(name, dtype);
    if array.getattr("ndim")?.extract::<usize>()? != 1 {
        return Err(wrong());
    }
    if size == 0 {
        return Ok(Vec::new());
    }
    let found = kind(&array)?;
    if !matches!(found, 'i' | 'u' | 'O') {
        return Err(wrong());
    }
    if found == 'i' && dtype == "uint64" && array.call_method0("min")?.extract::<i64>()? < 0 {
        return Err(wrong());
    }
    if found == 'u'
        && dtype == "int64"
        && array.call_method0("max")?.extract::<u64>()? > i64::MAX as u64
    {
        return Err(wrong());
    }
    let array = array
        .call_method1("astype", (dtype,))
        .map_err(|_| wrong())?;
    let array = array.cast_into::<PyArray1<T>>().map_err(|_| wrong())?;
    Ok(array.readonly().as_array().iter().copied().collect())
}

/// Keys.
pub fn keys(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<u64>> {
    integers::<u64>(value, name, "uint64")
}

/// Group ids.
pub fn ids(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<i64>> {
    integers::<i64>(value, name, "int64")
}

/// A boolean mask, or None if the value holds no booleans.
pub fn mask(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Option<Vec<bool>>> {
    if let Ok(array) = value.cast::<PyArray1<bool>>() {
        return Ok(Some(array.readonly().as_array().to_vec()));
    }
    let array = asarray(value, name)?;
    if kind(&array)? != 'b' {
        return Ok(None);
    }
    let array = array.cast_into::<PyArray1<bool>>().map_err(|_| {
        invalid(format!(
            "{name} is a mask of more than one dimension; give shape (len(index),)"
        ))
    })?;
    Ok(Some(array.readonly().as_array().to_vec()))
}

/// The threads that a call may use: what it asks for, else `OSLER_THREADS`, else what the system gives.
pub fn threads(asked: Option<i64>) -> PyResult<usize> {
    if let Some(asked) = asked {
        return usize::try_from(asked)
            .ok()
            .filter(|&n| n > 0)
            .ok_or_else(|| {
                invalid(format!(
                    "threads is {asked}; use at least 1, or None for all"
                ))
            });
    }
    match std::env::var("OSLER_THREADS") {
        Ok(text) if !text.trim().is_empty() => text
            .trim()
            .parse()
            .ok()
            .filter(|&n: &usize| n > 0)
            .ok_or_else(|| {
                invalid(format!(
                    "OSLER_THREADS is {text:?}; set it to a whole number of at least 1, or unset it"
                ))
            }),
        _ => Ok(osler_core::pool::available_threads()),
    }
}
