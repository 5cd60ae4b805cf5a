//! The one door into the engine: lets other Python threads run, catches panics and Ctrl-C, converts errors.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;
use std::time::Duration;

use osler_core::error::{Error, Result};
use osler_core::pool::Control;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;

use crate::errors;

/// How often long work looks for Ctrl-C and reports progress.
const WATCH: Duration = Duration::from_millis(50);

fn outcome<R>(py: Python<'_>, result: std::thread::Result<Result<R>>) -> PyResult<R> {
    match result {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(errors::exception(py, error)),
        Err(panic) => {
            let what = panic
                .downcast_ref::<&str>()
                .map(ToString::to_string)
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            let text = format!("a fault inside Osler ({what}); please report it");
            Err(errors::ours(py, "InternalError", &text))
        }
    }
}

/// Runs work that ends soon, on this thread.
pub fn quick<R: Send>(py: Python<'_>, work: impl FnOnce() -> Result<R> + Send) -> PyResult<R> {
    let result = py.detach(|| catch_unwind(AssertUnwindSafe(work)));
    outcome(py, result)
}

/// Runs work that may take long, on a thread of its own, while this one looks for Ctrl-C and calls `progress` with
/// (done, total). When either asks to stop, the work is cancelled and the exception raised once it has ended.
pub fn long<R: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    work: impl FnOnce(&Control) -> Result<R> + Send,
) -> PyResult<R> {
    let control = Control::default();
    let watch = progress.map(|callback| callback.clone().unbind());
    let (result, stopped) = py.detach(|| {
        std::thread::scope(|scope| {
            let (ended, end) = mpsc::channel::<()>();
            let control = &control;
            let worker = std::thread::Builder::new()
                .name("osler-work".to_owned())
                .spawn_scoped(scope, move || {
                    let result = catch_unwind(AssertUnwindSafe(|| work(control)));
                    drop(ended);
                    result
                });
            let worker = match worker {
                Ok(worker) => worker,
                Err(error) => return (None, Some(PyErr::from(error))),
            };
            let mut stopped = None;
            while end.recv_timeout(WATCH) == Err(mpsc::RecvTimeoutError::Timeout) {
                let look = Python::attach(|py| -> PyResult<()> {
                    py.check_signals()?;
                    match &watch {
                        Some(callback) if stopped.is_none() => report(callback.bind(py), control),
                        _ => Ok(()),
                    }
                });
                if let Err(error) = look {
                    control.cancel();
                    stopped.get_or_insert(error);
                }
            }
            (Some(worker.join().unwrap_or_else(Err)), stopped)
        })
    });
    let value = match (result, stopped) {
        (None, Some(error)) | (Some(Ok(Err(Error::Cancelled))), Some(error)) => return Err(error),
        (Some(result), None) => outcome(py, result)?,
        (Some(result), Some(error)) => {
            // The work was done before it could be stopped: what it did stands, and the signal comes again.
            let value = outcome(py, result)?;
            if !error.is_instance_of::<PyKeyboardInterrupt>(py) {
                return Err(error);
            }
            py.import("_thread")?.call_method0("interrupt_main")?;
            value
        }
        (None, None) => unreachable!("work that did not start left an error"),
    };
    if let Some(callback) = progress {
        report(callback, &control)?;
    }
    Ok(value)
}

fn report(callback: &Bound<'_, PyAny>, control: &Control) -> PyResult<()> {
    let (done, total) = control.progress();
    if total > 0 {
        callback.call1((done.min(total), total))?;
    }
    Ok(())
}
