//! The real file system, in a process that ends without warning at the nth call. For tests only.

use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::fs::real::Real;
use crate::fs::{Entry, Lock, LockKind, Opened, Sink, Storage};

/// The real file system, in a process that ends without warning before the nth call.
pub struct Dying {
    left: Arc<std::sync::atomic::AtomicU64>,
}

impl Dying {
    /// A storage that `calls` calls reach.
    pub fn after(calls: u64) -> Self {
        Dying {
            left: Arc::new(calls.into()),
        }
    }

    fn call(&self) -> &'static Real {
        tick(&self.left);
        &Real
    }
}

fn tick(left: &std::sync::atomic::AtomicU64) {
    let order = std::sync::atomic::Ordering::SeqCst;
    if left
        .fetch_update(order, order, |n| n.checked_sub(1))
        .is_err()
    {
        // As a kill does: nothing is flushed, unwound or dropped.
        std::process::abort();
    }
}

struct DyingFile {
    file: Box<dyn Sink>,
    left: Arc<std::sync::atomic::AtomicU64>,
}

impl Sink for DyingFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        tick(&self.left);
        self.file.write_at(offset, bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        tick(&self.left);
        self.file.sync()
    }
}

impl Storage for Dying {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        Ok(Box::new(DyingFile {
            file: self.call().create(path)?,
            left: self.left.clone(),
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        self.call().open(path)
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        self.call().length(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call().rename(from, to)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.call().link(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.call().remove(path)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        self.call().make_folder(path)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        self.call().remove_folder(path)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.call().sync_folder(path)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        self.call().sync_file(path)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        self.call().list(folder)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn Lock>> {
        self.call().lock(path, kind)
    }

    fn random(&self) -> io::Result<u128> {
        self.call().random()
    }
}
