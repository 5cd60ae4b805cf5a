//! The threads of one index, and how long work is watched and stopped.
//!
//! A pool belongs to one process: after a fork the child makes its own. Work that runs on one thread uses no pool.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;

use crate::error::{Error, Result};

/// Shared between work and whoever watches it.
#[derive(Debug, Default)]
pub struct Control {
    cancelled: AtomicBool,
    done: AtomicU64,
    total: AtomicU64,
}

impl Control {
    /// Asks the work to stop soon; it then leaves everything as it was.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// # Errors
    /// [`Error::Cancelled`] if the work was asked to stop.
    pub fn check(&self) -> Result<()> {
        if self.cancelled.load(Ordering::Relaxed) {
            Err(Error::Cancelled)
        } else {
            Ok(())
        }
    }

    /// Says how much there is to do.
    pub fn expect(&self, total: usize) {
        self.total.store(total as u64, Ordering::Relaxed);
    }

    /// Says that some of it is done.
    pub fn advance(&self, done: usize) {
        self.done.fetch_add(done as u64, Ordering::Relaxed);
    }

    /// What is done, and of how much.
    pub fn progress(&self) -> (u64, u64) {
        (
            self.done.load(Ordering::Relaxed),
            self.total.load(Ordering::Relaxed),
        )
    }
}

/// The CPU set and the cgroup's quota, as the system tells.
pub fn available_threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A lock that a forked child finds open, whoever held it in the parent.
pub struct ProcessLock<T> {
    of_process: ArcSwap<(u32, Mutex<T>)>,
}

impl<T: Default> Default for ProcessLock<T> {
    fn default() -> Self {
        ProcessLock {
            of_process: ArcSwap::from_pointee((std::process::id(), Mutex::default())),
        }
    }
}

impl<T: Default> ProcessLock<T> {
    /// Runs `work` while nobody else in this process holds the lock.
    pub fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let process = std::process::id();
        let mut lock = self.of_process.load_full();
        if lock.0 != process {
            let inherited = lock;
            lock = Arc::new((process, Mutex::default()));
            self.of_process.store(lock.clone());
            // What it guards may need threads that do not exist here to be dropped.
            std::mem::forget(inherited);
        }
        let mut guard = lock.1.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut guard)
    }
}

struct Made {
    threads: usize,
    pool: rayon::ThreadPool,
}

/// Threads that are made on first use, in each process anew.
#[derive(Default)]
pub struct Pool {
    made: ProcessLock<Option<Arc<Made>>>,
}

impl Pool {
    /// Runs `work` with `threads` threads; rayon's parallel iterators inside it use exactly those.
    ///
    /// # Errors
    /// [`Error::Input`] if the system gives no threads, and what `work` returns.
    pub fn run<R: Send>(
        &self,
        threads: usize,
        work: impl FnOnce() -> Result<R> + Send,
    ) -> Result<R> {
        let pool = self.made.with(|made| match made {
            Some(pool) if pool.threads == threads => Ok(pool.clone()),
            _ => {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .thread_name(|i| format!("osler-{i}"))
                    .build()
                    .map_err(|_| {
                        Error::input(format!(
                            "the system gives no {threads} threads; ask for fewer"
                        ))
                    })?;
                let new = Arc::new(Made { threads, pool });
                *made = Some(new.clone());
                Ok::<_, Error>(new)
            }
        })?;
        pool.pool.install(work)
    }
}
