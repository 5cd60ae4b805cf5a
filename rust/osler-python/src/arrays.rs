//! NumPy arrays in, copied and checked, with errors that name the argument; and how many threads a call may use.

use half::f16;
use numpy::ndarray::{Axis, Dimension, Slice};
use numpy::{
    PyArray, PyArray1, PyArrayDescrMethods, PyArrayDyn, PyArrayMethods, PyUntypedArrayMethods,
};
use osler_core::error::Error;
use pyo3::exceptions::{PyOverflowError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyInt, PyList, PyTuple};

use crate::errors;

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

/// The same array where its numbers lie at whole steps; a copy where they do not, as in a field of packed records.
fn in_step<'py, T: numpy::Element, D: Dimension>(
    array: &Bound<'py, PyArray<T, D>>,
) -> PyResult<Bound<'py, PyArray<T, D>>> {
    let size = size_of::<T>();
    let whole = array
        .strides()
        .iter()
        .all(|stride| stride % size as isize == 0);
    if whole && (array.data() as usize).is_multiple_of(align_of::<T>()) {
        return Ok(array.clone());
    }
    let copy = array
        .py()
        .import("numpy")?
        .call_method1("array", (array,))?;
    Ok(copy.cast_into::<PyArray<T, D>>()?)
}

/// Numbers that are copied before other Python threads get their turn: well below a millisecond.
const TURN: usize = 1 << 17;

/// The numbers of an array in order, whatever its layout. Other Python threads run in between; what they write into the
/// array is found or not.
pub fn copied<T: numpy::Element + Copy, D: Dimension, R>(
    array: &Bound<'_, PyArray<T, D>>,
    convert: impl Fn(T) -> R,
) -> PyResult<Vec<R>> {
    let array = in_step(array)?.to_dyn().clone();
    let py = array.py();
    let layout = |array: &Bound<'_, PyArrayDyn<T>>| {
        let (shape, strides) = (array.shape().to_vec(), array.strides().to_vec());
        (array.data() as usize, shape, strides)
    };
    let before = layout(&array);
    let shape = before.1.clone();
    let mut found = Vec::new();
    found.try_reserve_exact(array.len()).map_err(|_| {
        let bytes = array.len().saturating_mul(size_of::<R>());
        errors::exception(py, Error::Memory(bytes))
    })?;
    let (rows, width) = match shape[..] {
        [] => {
            found.extend(array.readonly().as_array().iter().map(|&x| convert(x)));
            return Ok(found);
        }
        [rows, ref rest @ ..] => (rows, rest.iter().product::<usize>()),
    };
    let step = (TURN / width.max(1)).max(1);
    let mut start = 0;
    while start < rows {
        if start > 0 {
            py.detach(|| ());
        }
        if layout(&array) != before || !array.dtype().is_equiv_to(&numpy::dtype::<T>(py)) {
            return Err(invalid(
                "an array changed its shape while it was read; give each thread its own".to_owned(),
            ));
        }
        let end = rows.min(start + step);
        let held = array.readonly();
        let all = held.as_array();
        let part = all.slice_axis(Axis(0), Slice::from(start..end));
        match part.as_slice() {
            Some(slice) => found.extend(slice.iter().map(|&x| convert(x))),
            None => found.extend(part.iter().map(|&x| convert(x))),
        }
        start = end;
    }
    Ok(found)
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
        (copied(array, |x| x)?, array.shape().to_vec())
    } else if let Ok(array) = value.cast::<PyArrayDyn<f16>>() {
        (copied(array, f16::to_f32)?, array.shape().to_vec())
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
        (copied(&array, |x| x)?, array.shape().to_vec())
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

/// The numbers of a list or tuple of Python's own whole numbers, or None for anything else. NumPy would make float64 of
/// one with numbers on both sides of 2**63.
fn listed<T: for<'a, 'py> FromPyObject<'a, 'py>>(
    value: &Bound<'_, PyAny>,
    wrong: impl Fn() -> PyErr,
) -> PyResult<Option<Vec<T>>> {
    if !value.is_instance_of::<PyList>() && !value.is_instance_of::<PyTuple>() {
        return Ok(None);
    }
    let mut found = Vec::new();
    for item in value.try_iter()? {
        let item = item?;
        if !item.is_instance_of::<PyInt>() || item.is_instance_of::<PyBool>() {
            return Ok(None);
        }
        found.push(item.extract::<T>().map_err(|_| wrong())?);
        if found.len().is_multiple_of(TURN / 4) {
            value.py().detach(|| ());
        }
    }
    Ok(Some(found))
}

/// Whole numbers from anything that NumPy takes.
fn integers<T: numpy::Element + Copy + for<'a, 'py> FromPyObject<'a, 'py>>(
    value: &Bound<'_, PyAny>,
    name: &str,
    dtype: &str,
) -> PyResult<Vec<T>> {
    if let Ok(array) = value.cast::<PyArray1<T>>() {
        return copied(array, |x| x);
    }
    if let Some(found) = listed(value, || not_whole(name, dtype))? {
        return Ok(found);
    }
    let numpy = value.py().import("numpy")?;
    let array = asarray(value, name)?;
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
    if !matches!(found, 'i' | 'u') {
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
    copied(&array, |x| x)
}

/// Keys.
pub fn keys(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<u64>> {
    integers::<u64>(value, name, "uint64")
}

/// Group ids.
pub fn ids(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<i64>> {
    integers::<i64>(value, name, "int64")
}

/// Where each query's vectors begin.
pub fn offsets(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Vec<usize>> {
    let whole = integers::<i64>(value, name, "int64")?;
    let offsets = whole.into_iter().map(usize::try_from);
    offsets
        .collect::<Result<_, _>>()
        .map_err(|_| invalid(format!("{name} has a negative number; they begin with 0")))
}

/// A boolean mask, or None if the value holds no booleans.
pub fn mask(value: &Bound<'_, PyAny>, name: &str) -> PyResult<Option<Vec<bool>>> {
    let array = asarray(value, name)?;
    if kind(&array)? != 'b' {
        return Ok(None);
    }
    if array.getattr("ndim")?.extract::<usize>()? != 1 {
        return Err(invalid(format!(
            "{name} is a mask that is not one-dimensional; give shape (len(index),)"
        )));
    }
    // A view of other bytes as booleans can hold values that are neither; any but 0 is true to NumPy.
    let bytes = array.call_method1("view", ("uint8",))?;
    let bytes = bytes.cast_into::<PyArray1<u8>>()?;
    Ok(Some(copied(&bytes, |byte| byte != 0)?))
}

/// A whole number of a keyword, of which a value beyond 64 bits is as good as the nearest.
#[derive(Clone, Copy)]
pub struct Whole(pub i64);

impl<'py> FromPyObject<'_, 'py> for Whole {
    type Error = PyErr;

    fn extract(object: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        match object.extract::<i64>() {
            Ok(number) => Ok(Whole(number)),
            Err(error) if error.is_instance_of::<PyOverflowError>(object.py()) => {
                let negative = object.lt(0)?;
                Ok(Whole(if negative { i64::MIN } else { i64::MAX }))
            }
            Err(error) => Err(error),
        }
    }
}

/// A number that may not be negative.
pub fn unsigned(name: &str, value: &Whole) -> PyResult<u64> {
    u64::try_from(value.0)
        .map_err(|_| invalid(format!("{name} is negative; it must be at least 0")))
}

/// A number that must be at least 1.
pub fn positive(name: &str, value: &Whole) -> PyResult<usize> {
    usize::try_from(value.0)
        .ok()
        .filter(|&n| n > 0)
        .ok_or_else(|| invalid(format!("{name} is {}; it must be at least 1", value.0)))
}

/// More threads than this are of no use to anyone.
const MAX_THREADS: usize = 1024;

/// The threads that a call may use: what it asks for, else `OSLER_THREADS`, else what the system gives.
pub fn threads(asked: Option<Whole>) -> PyResult<usize> {
    let wrong = |name: &str, value: &dyn std::fmt::Display, else_: &str| {
        invalid(format!(
            "{name} is {value}; use 1 to {MAX_THREADS}, or {else_}"
        ))
    };
    let fits = |n: &usize| (1..=MAX_THREADS).contains(n);
    if let Some(Whole(asked)) = asked {
        let number = usize::try_from(asked).ok().filter(fits);
        return number.ok_or_else(|| wrong("threads", &asked, "None for all"));
    }
    match std::env::var("OSLER_THREADS") {
        Ok(text) if !text.trim().is_empty() => {
            let number = text.trim().parse().ok().filter(fits);
            number.ok_or_else(|| wrong("OSLER_THREADS", &text, "unset it"))
        }
        _ => Ok(osler_core::pool::available_threads()),
    }
}
