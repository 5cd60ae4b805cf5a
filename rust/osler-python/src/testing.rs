//! `_native.testing`, in a build for tests only: another storage in the place of the real one, and planted bugs.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};

use osler_core::file::testing::MAPPED;
use osler_core::fs::Storage;
use osler_core::fs::testing::{Dying, Fault, Memory};
use osler_core::fuzz::Target;
use osler_core::planted;
use osler_core::random::Stream;
use osler_core::store::testing::{Damaged, History, Returned};
use peak_alloc::PeakAlloc;
use pyo3::exceptions::{PyAssertionError, PyKeyError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};

static CHOSEN: Mutex<Option<Arc<dyn Storage>>> = Mutex::new(None);

/// The storage that a test has chosen.
pub fn storage() -> Option<Arc<dyn Storage>> {
    CHOSEN
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

fn choose(storage: Option<Arc<dyn Storage>>) {
    *CHOSEN.lock().unwrap_or_else(PoisonError::into_inner) = storage;
}

/// A file system in memory.
#[pyclass(frozen)]
struct Disk {
    memory: Memory,
}

#[pymethods]
impl Disk {
    #[new]
    fn new(root: PathBuf, seed: u64) -> Self {
        Disk {
            memory: Memory::new(&root, seed),
        }
    }

    /// Put it in the place of the real one.
    fn mount(&self) {
        choose(Some(Arc::new(self.memory.clone())));
    }

    fn settle(&self) {
        self.memory.settle();
    }

    fn fork(&self) -> Self {
        Disk {
            memory: self.memory.fork(),
        }
    }

    /// Let a call fail: `how` is error, short, done or partial.
    #[pyo3(signature = (at, how, code=0))]
    fn fail(&self, at: u64, how: &str, code: i32) -> PyResult<()> {
        let fault = match how {
            "error" => Fault::Error(code),
            "short" => Fault::Short(code),
            "done" => Fault::Done(code),
            "partial" => Fault::Partial,
            _ => return Err(PyKeyError::new_err(how.to_owned())),
        };
        self.memory.fail(at, fault);
        Ok(())
    }

    fn came(&self) -> bool {
        self.memory.came()
    }

    fn struck(&self) -> Option<String> {
        self.memory.struck()
    }

    fn steps(&self) -> usize {
        self.memory.steps()
    }

    fn files<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let files = PyDict::new(py);
        for (path, content) in self.memory.files() {
            files.set_item(path, PyBytes::new(py, &content))?;
        }
        Ok(files)
    }

    fn overwrite(&self, path: PathBuf, bytes: &[u8]) {
        self.memory.overwrite(&path, bytes.to_vec());
    }

    /// What is left after a power cut.
    fn after_power_cut(&self, steps: usize, seed: u64) -> Self {
        let mut stream = Stream::new(seed, 2, 0);
        Disk {
            memory: self
                .memory
                .after_power_cut(steps, &mut |n| stream.below(n as u64) as usize),
        }
    }

    /// Flip bits of a file of a collection, or of an index if `file` is None, one at a time; returns how many.
    fn check_flips(
        &self,
        py: Python<'_>,
        path: PathBuf,
        file: Option<String>,
        start: usize,
        stop: usize,
    ) -> PyResult<usize> {
        let damaged = self.damaged(path, file);
        let found = py.detach(|| damaged.flips(start..stop));
        found.map_err(PyAssertionError::new_err)
    }

    /// Put other bytes in the place of a file, and check that they are refused.
    fn check_refused(
        &self,
        py: Python<'_>,
        path: PathBuf,
        file: Option<String>,
        bytes: &[u8],
        why: &str,
    ) -> PyResult<()> {
        let damaged = self.damaged(path, file);
        let found = py.detach(|| damaged.refuses(bytes.to_vec(), why));
        found.map_err(PyAssertionError::new_err)
    }

    /// Change what a listed file says, under right checksums that the newest manifest lists.
    fn change_listed(&self, path: PathBuf, file: String, seed: u64) -> PyResult<()> {
        let changed = self.damaged(path, Some(file)).change_listed(seed);
        changed.map_err(PyKeyError::new_err)
    }

    /// Cut the power at steps chosen by `seed`, `cuts` times, and check what is left; returns the number of states.
    fn check_power_cuts(
        &self,
        py: Python<'_>,
        root: PathBuf,
        calls: HashMap<u64, (String, usize)>,
        cuts: usize,
        seed: u64,
    ) -> PyResult<usize> {
        let mut returned = Vec::with_capacity(calls.len());
        for (number, (id, steps)) in calls {
            let id = u128::from_str_radix(&id, 16)
                .map_err(|error| PyKeyError::new_err(error.to_string()))?;
            returned.push(Returned { number, id, steps });
        }
        returned.sort_by_key(|call| (call.number, call.steps));
        let history = History {
            memory: self.memory.clone(),
            root,
            calls: returned,
        };
        let found = py.detach(|| {
            let mut stream = Stream::new(seed, 3, 0);
            let mut states = 0;
            for cut in 0..cuts {
                let steps = stream.below(history.memory.steps() as u64 + 1) as usize;
                let seen = history.power_cut(steps, &mut stream);
                states +=
                    seen.map_err(|e| format!("seed {seed}, cut {cut}, {steps} steps: {e}"))?;
            }
            Ok::<_, String>(states)
        });
        found.map_err(PyAssertionError::new_err)
    }
}

impl Disk {
    fn damaged(&self, path: PathBuf, file: Option<String>) -> Damaged {
        Damaged {
            memory: self.memory.clone(),
            path,
            file,
        }
    }
}

/// Counts what is allocated, so that a file that asks for more than it is worth is seen.
#[global_allocator]
static ALLOCATOR: PeakAlloc = PeakAlloc;

/// Bytes that the use of a file may allocate besides twice its own.
const ALLOWANCE: usize = 16 << 20;

/// Make files of a sound one by the engine's fuzzer and use each; returns how many were made, and how many were sound.
#[pyfunction]
fn fuzz(
    py: Python<'_>,
    target: &str,
    base: &[u8],
    seed: u64,
    count: usize,
) -> PyResult<(usize, usize)> {
    let target = match target {
        "index" => Target::Index,
        "manifest" => Target::Manifest,
        "segment" => Target::Segment,
        _ => return Err(PyKeyError::new_err(target.to_owned())),
    };
    let found = py.detach(|| {
        std::panic::set_hook(Box::new(|_| {}));
        let found = osler_core::fuzz::run(target, base, seed, count, &mut |bytes, work| {
            ALLOCATOR.reset_peak_usage();
            let before = ALLOCATOR.current_usage();
            let mapped = MAPPED.load(Ordering::SeqCst);
            work();
            let mapped = MAPPED.load(Ordering::SeqCst) - mapped;
            let most = ALLOCATOR.peak_usage().saturating_sub(before) + mapped;
            if most > 2 * bytes + ALLOWANCE {
                return Err(format!("{most} bytes were allocated for {bytes}"));
            }
            Ok(())
        });
        drop(std::panic::take_hook());
        found
    });
    let outcomes = found.map_err(PyAssertionError::new_err)?;
    Ok((outcomes.files, outcomes.read))
}

/// Use the real file system, until `calls` calls were made: then the process ends.
#[pyfunction]
fn die_after(calls: u64) {
    choose(Some(Arc::new(Dying::after(calls))));
}

/// Let indexes of so many rows have a graph, or as many as in a build for use.
#[pyfunction]
#[pyo3(signature = (rows=None))]
fn lower_exact_below(rows: Option<usize>) {
    osler_core::state::lower(rows);
}

/// Use the real file system again.
#[pyfunction]
fn unmount() {
    choose(None);
}

/// Plant a bug by its name, or take it away.
#[pyfunction]
#[pyo3(signature = (name=None))]
fn plant(name: Option<&str>) -> PyResult<()> {
    let Some(name) = name else {
        planted::plant_everywhere(None);
        return Ok(());
    };
    let found = planted::ALL.iter().find(|bug| format!("{bug:?}") == name);
    let bug = found.ok_or_else(|| PyKeyError::new_err(name.to_owned()))?;
    planted::plant_everywhere(Some(*bug));
    Ok(())
}

/// Names of the bugs.
#[pyfunction]
fn bugs() -> Vec<String> {
    planted::ALL.iter().map(|bug| format!("{bug:?}")).collect()
}

pub fn add(module: &Bound<'_, PyModule>) -> PyResult<()> {
    let testing = PyModule::new(module.py(), "testing")?;
    testing.add_class::<Disk>()?;
    testing.add_function(wrap_pyfunction!(die_after, &testing)?)?;
    testing.add_function(wrap_pyfunction!(fuzz, &testing)?)?;
    testing.add_function(wrap_pyfunction!(lower_exact_below, &testing)?)?;
    testing.add_function(wrap_pyfunction!(unmount, &testing)?)?;
    testing.add_function(wrap_pyfunction!(plant, &testing)?)?;
    testing.add_function(wrap_pyfunction!(bugs, &testing)?)?;
    module.add_submodule(&testing)
}
