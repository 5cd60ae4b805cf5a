//! The threads of one index, and how long work is watched and stopped.
//!
//! A pool belongs to one process: after a fork the child makes its own. Work that runs on one thread uses no pool.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

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

struct Made {
    process: u32,
    threads: usize,
    pool: rayon::ThreadPool,
}

/// Threads that are made on first use.
#[derive(Default)]
pub struct Pool {
    made: Mutex<Option<std::sync::Arc<Made>>>,
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
        let process = std::process::id();
        let pool = {
            let mut made = self
                .made
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            match &*made {
                Some(pool) if pool.process == process && pool.threads == threads => pool.clone(),
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
                    let new = std::sync::Arc::new(Made {
                        process,
                        threads,
                        pool,
                    });
                    if let Some(old) = made.replace(new.clone())
                        && old.process != process
                    {
                        // The parent's threads do not exist here; waiting for them would never end.
                        std::mem::forget(old);
                    }
                    new
                }
            }
        };
        pool.pool.install(work)
    }
}
