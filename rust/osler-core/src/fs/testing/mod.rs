//! A file system in memory for tests: it fails at the call that it is told to, and it loses power.

mod dying;
mod power_cut;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

pub use self::dying::Dying;
use super::{Entry, Lock, LockKind, Opened, Sink, Storage, folder_of};

/// Bytes that a disk writes in one piece.
const SECTOR: usize = 512;

/// A file, by its place among all that were made.
type Inode = usize;

/// What was done, in order; what only reads is not in it.
#[derive(Clone, Debug)]
enum Step {
    Write(Inode, u64, Arc<[u8]>),
    Sync(Inode),
    /// A sync that failed: the system may take the bytes for written, so that no later sync writes them.
    Unsynced(Inode),
    Name(PathBuf, Inode),
    Unname(PathBuf),
    Rename(PathBuf, PathBuf, Inode),
    RenameFolder(PathBuf, PathBuf),
    Folder(PathBuf),
    NoFolder(PathBuf),
    SyncFolder(PathBuf),
}

/// How a call fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The call does nothing and reports this error of the system.
    Error(i32),
    /// A write writes half, and all later ones report this error; another call does nothing and reports it.
    Short(i32),
    /// The call does what it should, and reports this error all the same.
    Done(i32),
    /// One write writes a part and says so, or is interrupted before it writes; other calls are not touched.
    Partial,
}

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// Every way, with the errors that matter.
pub const FAULTS: [Fault; 5] = [
    Fault::Error(EIO),
    Fault::Error(ENOSPC),
    Fault::Short(ENOSPC),
    Fault::Done(EIO),
    Fault::Partial,
];

#[derive(Default)]
struct Disk {
    files: BTreeMap<PathBuf, Inode>,
    folders: BTreeSet<PathBuf>,
    contents: Vec<Arc<Vec<u8>>>,
    /// What was there when the log began is durable.
    durable: Option<Box<Disk>>,
    log: Vec<Step>,
    locks: BTreeMap<PathBuf, (LockKind, usize)>,
    random: u64,
    calls: u64,
    fault: Option<(u64, Fault)>,
    struck: Option<String>,
}

/// The file system.
#[derive(Clone, Default)]
pub struct Memory(Arc<Mutex<Disk>>);

impl Memory {
    /// An empty file system, with folders down to `root`; `seed` decides its random numbers.
    pub fn new(root: &Path, seed: u64) -> Self {
        let folders = root.ancestors().map(Path::to_owned).collect();
        let disk = Disk {
            folders,
            random: seed,
            ..Disk::default()
        };
        let memory = Memory(Arc::new(Mutex::new(disk)));
        memory.settle();
        memory
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Calls that were made since the last fault was ordered.
    pub fn calls(&self) -> u64 {
        self.disk().calls
    }

    /// Takes all that is there as durable, and forgets how it came about.
    pub fn settle(&self) {
        let mut disk = self.disk();
        let now = Disk {
            files: disk.files.clone(),
            folders: disk.folders.clone(),
            contents: disk.contents.clone(),
            ..Disk::default()
        };
        disk.durable = Some(Box::new(now));
        disk.log.clear();
    }

    /// A copy that goes its own way, without locks and without a fault.
    pub fn fork(&self) -> Memory {
        let disk = self.disk();
        let copy = Disk {
            files: disk.files.clone(),
            folders: disk.folders.clone(),
            contents: disk.contents.clone(),
            random: disk.random ^ 0x9e37_79b9_7f4a_7c15,
            ..Disk::default()
        };
        let copy = Memory(Arc::new(Mutex::new(copy)));
        drop(disk);
        copy.settle();
        copy
    }

    /// Lets call number `at` fail, counted from now.
    pub fn fail(&self, at: u64, fault: Fault) {
        let mut disk = self.disk();
        disk.calls = 0;
        disk.struck = None;
        disk.fault = Some((at, fault));
    }

    /// Whether it came to the call that should fail; one that such a fault does not touch was done as it should.
    pub fn came(&self) -> bool {
        let disk = self.disk();
        disk.fault.is_some_and(|(at, _)| disk.calls > at)
    }

    /// The call that failed, if one did.
    pub fn struck(&self) -> Option<String> {
        self.disk().struck.clone()
    }

    /// Steps that a power cut may fall between.
    pub fn steps(&self) -> usize {
        self.disk().log.len()
    }

    /// Every file and its bytes.
    pub fn files(&self) -> Vec<(PathBuf, Arc<Vec<u8>>)> {
        let disk = self.disk();
        let pairs = disk.files.iter();
        pairs
            .map(|(path, &inode)| (path.clone(), disk.contents[inode].clone()))
            .collect()
    }

    /// Puts other bytes in the place of a file's, as damage would.
    pub fn overwrite(&self, path: &Path, bytes: Vec<u8>) {
        let mut disk = self.disk();
        if let Some(&inode) = disk.files.get(path) {
            disk.contents[inode] = Arc::new(bytes);
        }
    }
}

impl Disk {
    fn write(&mut self, step: &Step, sector: &mut dyn FnMut(usize) -> bool) {
        let Step::Write(inode, offset, bytes) = step else {
            return;
        };
        let content = Arc::make_mut(&mut self.contents[*inode]);
        let mut at = 0;
        while at < bytes.len() {
            let place = *offset as usize + at;
            let count = (SECTOR - place % SECTOR).min(bytes.len() - at);
            if sector(place / SECTOR) {
                if content.len() < place + count {
                    content.resize(place + count, 0);
                }
                content[place..place + count].copy_from_slice(&bytes[at..at + count]);
            }
            at += count;
        }
    }

    /// Does what of a step belongs to paths that `lands` names; says whether anything is left of it.
    fn name(&mut self, step: &Step, lands: &dyn Fn(&Path) -> bool) -> bool {
        match step {
            Step::Rename(from, to, inode) => {
                let (new, old) = (lands(to), lands(from));
                if new {
                    self.files.insert(to.clone(), *inode);
                }
                if old && self.files.get(from) == Some(inode) {
                    self.files.remove(from);
                }
                return !(new && old);
            }
            Step::Name(path, _)
            | Step::Unname(path)
            | Step::Folder(path)
            | Step::NoFolder(path)
            | Step::RenameFolder(_, path)
                if !lands(path) =>
            {
                return true;
            }
            Step::Name(path, inode) => {
                self.files.insert(path.clone(), *inode);
            }
            Step::Unname(path) => {
                self.files.remove(path);
            }
            Step::Folder(path) => {
                self.folders.insert(path.clone());
            }
            Step::NoFolder(path) => {
                self.folders.remove(path);
            }
            Step::RenameFolder(from, to) => self.rename_folder(from, to),
            Step::Write(..) | Step::Sync(_) | Step::Unsynced(_) | Step::SyncFolder(_) => {}
        }
        false
    }

    /// Counts a call, and fails it if that is its turn; an error that is returned as a value comes after the work.
    fn call(&mut self, what: &str, path: &Path) -> io::Result<Option<io::Error>> {
        self.calls += 1;
        let Some((at, fault)) = self.fault else {
            return Ok(None);
        };
        if self.calls != at + 1 || fault == Fault::Partial && what != "write" {
            return Ok(None);
        }
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        self.struck = Some(format!("{what} {name}"));
        match fault {
            Fault::Error(code) | Fault::Short(code) => Err(io::Error::from_raw_os_error(code)),
            Fault::Done(code) => Ok(Some(io::Error::from_raw_os_error(code))),
            Fault::Partial => Ok(None),
        }
    }

    fn is_folder(&self, path: &Path) -> io::Result<()> {
        let found = self.folders.contains(path);
        found
            .then_some(())
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn inode(&self, path: &Path) -> io::Result<Inode> {
        self.files
            .get(path)
            .copied()
            .ok_or_else(|| ErrorKind::NotFound.into())
    }

    fn free(&self, path: &Path) -> io::Result<()> {
        self.is_folder(folder_of(path))?;
        if self.files.contains_key(path) || self.folders.contains(path) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        Ok(())
    }

    fn step(&mut self, step: Step) {
        self.name(&step, &|_| true);
        self.log.push(step);
    }
}

fn after(late: Option<io::Error>) -> io::Result<()> {
    late.map_or(Ok(()), Err)
}

impl Storage for Memory {
    fn create(&self, path: &Path) -> io::Result<Box<dyn Sink>> {
        let mut disk = self.disk();
        let late = disk.call("create", path)?;
        disk.free(path)?;
        disk.contents.push(Arc::default());
        let inode = disk.contents.len() - 1;
        disk.step(Step::Name(path.to_owned(), inode));
        after(late)?;
        Ok(Box::new(MemoryFile {
            memory: self.clone(),
            inode,
            path: path.to_owned(),
            broken: None,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Opened> {
        let mut disk = self.disk();
        after(disk.call("open", path)?)?;
        let inode = disk.inode(path)?;
        Ok(Opened::Bytes(disk.contents[inode].to_vec()))
    }

    fn length(&self, path: &Path) -> io::Result<u64> {
        let mut disk = self.disk();
        after(disk.call("stat", path)?)?;
        let inode = disk.inode(path)?;
        Ok(disk.contents[inode].len() as u64)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("rename", to)?;
        if disk.folders.contains(from) {
            disk.free(to)?;
            disk.step(Step::RenameFolder(from.to_owned(), to.to_owned()));
            return after(late);
        }
        let inode = disk.inode(from)?;
        disk.is_folder(folder_of(to))?;
        disk.step(Step::Rename(from.to_owned(), to.to_owned(), inode));
        after(late)
    }

    fn link(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("link", to)?;
        let inode = disk.inode(from)?;
        disk.free(to)?;
        disk.step(Step::Name(to.to_owned(), inode));
        after(late)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("remove", path)?;
        disk.inode(path)?;
        disk.step(Step::Unname(path.to_owned()));
        after(late)
    }

    fn make_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("make folder", path)?;
        disk.free(path)?;
        disk.step(Step::Folder(path.to_owned()));
        after(late)
    }

    fn remove_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("remove folder", path)?;
        disk.is_folder(path)?;
        let inside = |other: &Path| folder_of(other) == path;
        if disk.files.keys().any(|f| inside(f)) || disk.folders.iter().any(|f| inside(f)) {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        disk.step(Step::NoFolder(path.to_owned()));
        after(late)
    }

    fn sync_folder(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("sync folder", path)?;
        disk.is_folder(path)?;
        disk.log.push(Step::SyncFolder(path.to_owned()));
        after(late)
    }

    fn sync_file(&self, path: &Path) -> io::Result<()> {
        let mut disk = self.disk();
        let late = disk.call("sync", path)?;
        let inode = disk.inode(path)?;
        disk.log.push(Step::Sync(inode));
        after(late)
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Entry>> {
        let mut disk = self.disk();
        after(disk.call("list", folder)?)?;
        disk.is_folder(folder)?;
        let entry = |path: &PathBuf, folder| Entry {
            name: path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned(),
            folder,
        };
        let inside = |path: &&PathBuf| path.as_path() != folder && folder_of(path) == folder;
        let files = disk
            .files
            .keys()
            .filter(inside)
            .map(|path| entry(path, false));
        let folders = disk
            .folders
            .iter()
            .filter(inside)
            .map(|path| entry(path, true));
        let mut all = files.chain(folders).collect::<Vec<_>>();
        all.sort();
        Ok(all)
    }

    fn lock(&self, path: &Path, kind: LockKind) -> io::Result<Box<dyn Lock>> {
        let mut disk = self.disk();
        after(disk.call("lock", path)?)?;
        disk.inode(path)?;
        let held = disk.locks.entry(path.to_owned()).or_insert((kind, 0));
        if held.1 > 0 && (held.0 == LockKind::Alone || kind == LockKind::Alone) {
            return Err(ErrorKind::WouldBlock.into());
        }
        *held = (kind, held.1 + 1);
        Ok(Box::new(MemoryLock {
            memory: self.clone(),
            path: path.to_owned(),
        }))
    }

    fn random(&self) -> io::Result<u128> {
        let mut disk = self.disk();
        let mut next = || {
            disk.random = disk.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = disk.random;
            mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ mixed >> 31
        };
        Ok(u128::from(next()) << 64 | u128::from(next()))
    }
}

impl Disk {
    fn rename_folder(&mut self, from: &Path, to: &Path) {
        let moved = |path: PathBuf| match path.strip_prefix(from) {
            Ok(rest) if rest.as_os_str().is_empty() => to.to_owned(),
            Ok(rest) => to.join(rest),
            Err(_) => path,
        };
        let files = std::mem::take(&mut self.files).into_iter();
        self.files = files.map(|(path, inode)| (moved(path), inode)).collect();
        let folders = std::mem::take(&mut self.folders).into_iter();
        self.folders = folders.map(moved).collect();
    }
}

struct MemoryFile {
    memory: Memory,
    inode: Inode,
    path: PathBuf,
    broken: Option<i32>,
}

impl Sink for MemoryFile {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        if let Some(code) = self.broken {
            return Err(io::Error::from_raw_os_error(code));
        }
        let mut disk = self.memory.disk();
        let mut count = bytes.len();
        let late = match disk.call("write", &self.path) {
            Ok(late) => late,
            Err(error) => match disk.fault {
                Some((_, Fault::Short(code))) if count > 1 => {
                    self.broken = Some(code);
                    count /= 2;
                    None
                }
                _ => return Err(error),
            },
        };
        if disk
            .fault
            .is_some_and(|(at, fault)| fault == Fault::Partial && disk.calls == at + 1)
        {
            if count < 2 {
                return Err(ErrorKind::Interrupted.into());
            }
            count = count.div_ceil(3);
        }
        let step = Step::Write(self.inode, offset, bytes[..count].into());
        disk.write(&step, &mut |_| true);
        disk.log.push(step);
        after(late)?;
        Ok(count)
    }

    fn sync(&mut self) -> io::Result<()> {
        let mut disk = self.memory.disk();
        let late = match disk.call("sync", &self.path) {
            Ok(late) => late,
            Err(error) => {
                disk.log.push(Step::Unsynced(self.inode));
                return Err(error);
            }
        };
        disk.log.push(Step::Sync(self.inode));
        after(late)
    }
}

struct MemoryLock {
    memory: Memory,
    path: PathBuf,
}

impl Lock for MemoryLock {
    fn note(&self, _: &str) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for MemoryLock {
    fn drop(&mut self) {
        if let Some(held) = self.memory.disk().locks.get_mut(&self.path) {
            held.1 -= 1;
        }
    }
}
