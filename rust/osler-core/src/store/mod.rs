//! A collection directory: immutable files of sections, numbered manifests, and the commit that publishes one.
//!
//! Touches files through [`Storage`] alone. Knows the names, lengths and hashes of files and not what is in them.
//! `FORMAT.md`, "The collection directory".

mod commit;
pub mod manifest;
pub mod payload;
pub mod recover;
mod sweep;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use arc_swap::ArcSwap;

pub use self::commit::{Change, New};
use self::manifest::{FOLDERS, Manifest, Root};
use crate::error::{Damage, Error, Result};
use crate::file::map::Map;
use crate::file::{self, Reader, kind};
use crate::fs::{Lock, LockKind, Storage, folder_of};
use crate::planted::{Bug, planted};
use crate::tables::section;

/// Version of the directory, an integer of its own.
const NEWEST: u64 = 2;
const OLDEST: u64 = 2;
/// Readings of a directory that a writer is changing all the time.
const MAX_ATTEMPTS: usize = 16;
const FORMAT: &str = "FORMAT";
/// How that file began in version 1, which was text.
const FIRST_VERSION: &[u8] = b"{\"magic\": \"osler collection\"";
const LOCK: &str = "LOCK";
const MANIFESTS: &str = "manifests";
const DRAFTS: &str = "tmp";

/// An open collection directory.
pub struct Store {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    collection: u128,
    current: ArcSwap<Snapshot>,
    writer: Option<Mutex<Writer>>,
}

/// What only the one writer has.
struct Writer {
    _lock: Box<dyn Lock>,
    /// Why nothing more can be written.
    refusal: Option<String>,
}

/// One state of a collection, whose files stay where they are as long as this is held.
pub struct Snapshot {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    manifest: Manifest,
    hash: Root,
    readers: Mutex<HashMap<String, Arc<Reader>>>,
    _lease: Option<Box<dyn Lock>>,
}

/// The error for a file that is not there, or is too short.
type Gone<'a> = &'a dyn Fn(&str, &str) -> Error;

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these hold is complete at every moment, so a panic elsewhere leaves nothing half-done in them.
    mutex
        .lock()
        .unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// The directory's own name, for messages.
fn name_of(root: &Path) -> String {
    crate::error::file_name(root)
}

fn damage(file: &str, problem: &str) -> Error {
    Error::from(Damage {
        file: file.to_owned(),
        section: "file".to_owned(),
        offset: 0,
        problem: problem.to_owned(),
    })
}

impl Store {
    /// Makes the directory with a first manifest, all of it or nothing, and opens it for writing.
    ///
    /// # Errors
    /// [`Error::Io`], also where something has the name already.
    pub fn create(storage: Arc<dyn Storage>, root: &Path, state: &[u8]) -> Result<Self> {
        let failed = |e| Error::io("create", root, e);
        let parent = folder_of(root);
        let names = storage.list(parent).map_err(failed)?;
        let own = name_of(root);
        if names.iter().any(|entry| entry.name == own) {
            return Err(failed(ErrorKind::AlreadyExists.into()));
        }
        let draft = parent.join(format!(".{own}.{:032x}", storage.random().map_err(failed)?));
        let unknown = || {
            Error::CommitUnknown(format!(
                "{own} was made, and may or may not last; look again"
            ))
        };
        let made = Self::draft(&*storage, &draft, state).and_then(|()| {
            let Err(error) = storage.rename(&draft, root) else {
                return Ok(());
            };
            // A call may do its work and fail all the same: it did nothing if what it should rename is there.
            let names = storage.list(parent).map_err(|_| unknown())?;
            let old = draft.file_name().map(OsStr::to_string_lossy);
            let stayed = names
                .iter()
                .any(|entry| Some(entry.name.as_str().into()) == old);
            Err(if stayed { failed(error) } else { unknown() })
        });
        if matches!(&made, Err(error) if !matches!(error, Error::CommitUnknown(_))) {
            // The error that matters is the first one.
            sweep::remove_tree(&*storage, &draft);
        }
        made?;
        storage.sync_folder(parent).map_err(|_| unknown())?;
        Self::open(storage, root, true).map_err(|_| unknown())
    }

    /// Removes a directory that nobody else knows, as far as that can be done.
    pub fn remove(storage: &dyn Storage, root: &Path) {
        sweep::remove_tree(storage, root);
    }

    fn draft(storage: &dyn Storage, draft: &Path, state: &[u8]) -> Result<()> {
        let failed = |e| Error::io("create", draft, e);
        storage.make_folder(draft).map_err(failed)?;
        for folder in FOLDERS.into_iter().chain([MANIFESTS, DRAFTS]) {
            storage.make_folder(&draft.join(folder)).map_err(failed)?;
        }
        let collection = storage.random().map_err(failed)?;
        let numbers =
            crate::chunks::Rows::from_values(&manifest::format_numbers(NEWEST, collection));
        let go_on = || Ok(());
        let sections = [section(kind::COLLECTION, 0, &numbers)];
        file::create(storage, &draft.join(FORMAT), &sections, &go_on)?;
        let first = Manifest {
            number: 0,
            id: storage.random().map_err(failed)?,
            collection,
            parent: [0; 32],
            oldest: 0,
            files: Default::default(),
            state: state.to_vec(),
        };
        let path = draft.join(MANIFESTS).join(Manifest::name(0));
        file::create(storage, &path, &first.tables().sections(), &go_on)?;
        drop(storage.create(&draft.join(LOCK)).map_err(failed)?);
        for folder in [&draft.join(MANIFESTS), draft] {
            storage.sync_folder(folder).map_err(failed)?;
        }
        Ok(())
    }

    /// Opens the newest state, after checking its manifest and the length of every file that it lists.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`], [`Error::Version`]; [`Error::Locked`] if another writes.
    pub fn open(storage: Arc<dyn Storage>, root: &Path, writable: bool) -> Result<Self> {
        let collection = read_format(&*storage, root)?;
        let lock = if writable {
            Some(take_lock(&*storage, root)?)
        } else {
            None
        };
        let snapshot = Snapshot::newest(&storage, root, collection)?;
        let store = Self::over(storage, root, collection, snapshot, lock);
        if writable {
            store.make_folders()?;
            if !planted(Bug::NotSwept) {
                store.sweep();
            }
        }
        Ok(store)
    }

    fn over(
        storage: Arc<dyn Storage>,
        root: &Path,
        collection: u128,
        snapshot: Snapshot,
        lock: Option<Box<dyn Lock>>,
    ) -> Self {
        Store {
            storage,
            root: root.to_owned(),
            collection,
            current: ArcSwap::from_pointee(snapshot),
            writer: lock.map(|lock| {
                Mutex::new(Writer {
                    _lock: lock,
                    refusal: None,
                })
            }),
        }
    }

    /// Makes the folders that a copy lacks because nothing was in them.
    fn make_folders(&self) -> Result<()> {
        let failed = |e| Error::io("open", &self.root, e);
        let names = self.storage.list(&self.root).map_err(failed)?;
        for folder in FOLDERS.into_iter().chain([DRAFTS]) {
            if !names.iter().any(|entry| entry.name == folder) {
                let made = self.storage.make_folder(&self.root.join(folder));
                made.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// The state in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// The random id of the directory.
    pub fn collection(&self) -> u128 {
        self.collection
    }

    /// Whether this holds the writer's lock.
    pub fn is_writable(&self) -> bool {
        self.writer.is_some()
    }

    /// A number for the name of a new file.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn random(&self) -> Result<u128> {
        self.storage
            .random()
            .map_err(|e| Error::io("write", &self.root, e))
    }

    /// Where a file that another writes may lie until it is committed.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn draft_path(&self) -> Result<PathBuf> {
        Ok(self
            .root
            .join(DRAFTS)
            .join(format!("{:032x}", self.random()?)))
    }
}

fn take_lock(storage: &dyn Storage, root: &Path) -> Result<Box<dyn Lock>> {
    let path = root.join(LOCK);
    let mut taken = storage.lock(&path, LockKind::Alone);
    if matches!(&taken, Err(e) if e.kind() == ErrorKind::NotFound) {
        // Nothing is in it, so a copy of the directory without it lacks nothing; two that make it lock the same file.
        let _ = storage.create(&path);
        taken = storage.lock(&path, LockKind::Alone);
    }
    match taken {
        Ok(lock) => {
            // A note for people; without it the lock is the same.
            let _ = lock.note(&format!("{}\n", std::process::id()));
            Ok(lock)
        }
        Err(e) if e.kind() == ErrorKind::WouldBlock => {
            let holder = Map::read(storage, &path).ok().and_then(|map| {
                let text = std::str::from_utf8(map.bytes()).ok()?;
                text.trim().parse::<u32>().ok()
            });
            let holder = holder.map_or("another process".to_owned(), |id| format!("process {id}"));
            Err(Error::Locked(format!(
                "{} is being written to by {holder}; wait for it, or open it for reading",
                name_of(root)
            )))
        }
        Err(e) => Err(Error::io("lock", root, e)),
    }
}

fn read_format(storage: &dyn Storage, root: &Path) -> Result<u128> {
    let map = match Map::read(storage, &root.join(FORMAT)) {
        Ok(map) => map,
        Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
            let names = storage.list(root).map_err(|e| Error::io("open", root, e))?;
            if names.iter().any(|entry| entry.name == MANIFESTS) {
                return Err(damage(FORMAT, "it is missing"));
            }
            return Err(Error::input(format!(
                "{} is no collection of Osler: it has no file {FORMAT}",
                name_of(root)
            )));
        }
        Err(error) => return Err(error),
    };
    if map.bytes().starts_with(FIRST_VERSION) {
        return Err(Error::Version {
            file: name_of(root),
            found: 1,
            oldest: OLDEST as u32,
            newest: NEWEST as u32,
        });
    }
    let reader = Reader::new(map)?;
    let go_on = || Ok(());
    if let Some(damage) = reader.verify(&go_on)?.into_iter().next() {
        return Err(damage.into());
    }
    manifest::read_format(&reader, OLDEST, NEWEST)
}

/// Numbers of the manifests there are, the greatest first.
fn numbers(storage: &dyn Storage, root: &Path) -> Result<Vec<u64>> {
    let names = match storage.list(&root.join(MANIFESTS)) {
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(damage(MANIFESTS, "it is missing"));
        }
        names => names.map_err(|e| Error::io("list", root, e))?,
    };
    let found = names.iter().filter(|entry| !entry.folder);
    let mut numbers: Vec<u64> = found
        .filter_map(|entry| Manifest::number_of(&entry.name))
        .collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    Ok(numbers)
}

impl Snapshot {
    fn newest(storage: &Arc<dyn Storage>, root: &Path, collection: u128) -> Result<Self> {
        let mut skip = 0;
        for _ in 0..MAX_ATTEMPTS {
            let numbers = numbers(&**storage, root)?;
            let Some(&number) = numbers.get(skip) else {
                return Err(damage(MANIFESTS, "there is no manifest"));
            };
            match Self::of(storage, root, collection, number) {
                Ok(Some(snapshot)) => match snapshot.first_missing()? {
                    None => return Ok(snapshot),
                    // As long as it is the newest, nobody removes its files.
                    Some(error) if self::numbers(&**storage, root)?.first() == Some(&number) => {
                        return Err(error);
                    }
                    Some(_) => {}
                },
                // A writer was faster than the reading: what was newest is so no longer.
                Ok(None) => {}
                Err(Error::Corrupt(_)) if planted(Bug::OlderManifest) => skip += 1,
                Err(error) => return Err(error),
            }
        }
        Err(Error::Refused {
            code: "stale",
            message: format!(
                "{} changes faster than it can be read; open it again",
                name_of(root)
            ),
        })
    }

    /// One state; None if it was superseded meanwhile.
    fn of(
        storage: &Arc<dyn Storage>,
        root: &Path,
        collection: u128,
        number: u64,
    ) -> Result<Option<Self>> {
        let name = format!("{MANIFESTS}/{}", Manifest::name(number));
        let path = root.join(&name);
        let lease = match storage.lock(&path, LockKind::Shared) {
            Ok(lease) => Some(lease),
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            // A writer is about to remove it.
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
            // A file system without locks: then nothing keeps files from removal.
            Err(_) => None,
        };
        let map = match Map::read(&**storage, &path) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Ok(None);
            }
            map => map?.named(&name),
        };
        let reader = Reader::new(map)?;
        let go_on = || Ok(());
        if let Some(damage) = reader.verify(&go_on)?.into_iter().next() {
            return Err(damage.into());
        }
        let manifest = Manifest::read(&reader)?;
        if manifest.number != number || manifest.collection != collection {
            return Err(damage(&name, "it is the manifest of another commit"));
        }
        Ok(Some(Snapshot {
            storage: storage.clone(),
            root: root.to_owned(),
            hash: reader.root(),
            manifest,
            readers: Mutex::default(),
            _lease: lease,
        }))
    }

    /// The damage of the first file that is missing or of another length.
    fn first_missing(&self) -> Result<Option<Error>> {
        for (file, listed) in &self.manifest.files {
            // A graph is derived: without it the rows are all there.
            if file.starts_with("graphs/") {
                continue;
            }
            if let Some(problem) = self.length_problem(file, listed.bytes)? {
                return Ok(Some(damage(file, &problem)));
            }
        }
        Ok(None)
    }

    /// The manifest.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn length_problem(&self, file: &str, bytes: u64) -> Result<Option<String>> {
        match self.storage.length(&self.root.join(file)) {
            Ok(found) if found == bytes => Ok(None),
            Ok(found) => Ok(Some(format!(
                "it has {found} bytes where {bytes} were written"
            ))),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Some("it is missing".to_owned())),
            Err(e) if e.kind() == ErrorKind::InvalidData => Ok(Some("it is no file".to_owned())),
            Err(e) => Err(Error::io("read", &self.root.join(file), e)),
        }
    }

    /// A listed file, mapped, whose blocks are verified when they are touched.
    ///
    /// # Errors
    /// [`Error::Corrupt`]; [`Error::Refused`] with code `stale` if a later commit removed it.
    pub fn reader(&self, file: &str) -> Result<Arc<Reader>> {
        if let Some(reader) = locked(&self.readers).get(file) {
            return Ok(reader.clone());
        }
        let gone = |file: &str, problem: &str| self.gone(file, problem);
        let reader = Arc::new(self.fresh_reader(file, &gone)?);
        locked(&self.readers).insert(file.to_owned(), reader.clone());
        Ok(reader)
    }

    fn fresh_reader(&self, file: &str, gone: Gone<'_>) -> Result<Reader> {
        let Some(listed) = self.manifest.files.get(file) else {
            return Err(Error::input(format!("the manifest lists no file {file}")));
        };
        if let Some(problem) = self.length_problem(file, listed.bytes)? {
            return Err(gone(file, &problem));
        }
        let map = match Map::open(&*self.storage, &self.root.join(file)) {
            // Removed since its length was read.
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                return Err(gone(file, "it is missing"));
            }
            map => map?.named(file),
        };
        let reader = Reader::new(map)?;
        if reader.root() != listed.root {
            return Err(damage(
                file,
                "it is another file than the one that was written",
            ));
        }
        Ok(reader)
    }

    /// Damage, unless a later commit did without the file.
    fn gone(&self, file: &str, problem: &str) -> Error {
        let newest = numbers(&*self.storage, &self.root).unwrap_or_default();
        if newest.first().is_some_and(|&n| n > self.manifest.number) {
            return Error::Refused {
                code: "stale",
                message: format!(
                    "{} has been changed and cleaned up since it was opened; open it again",
                    name_of(&self.root)
                ),
            };
        }
        damage(file, problem)
    }

    /// Reads every byte of every listed file again, and of the manifest, and returns all damage.
    ///
    /// # Errors
    /// What `check` returns, which is asked once a block; [`Error::Io`]; [`Error::Refused`] with code `stale` if a later
    /// commit removed a file.
    pub fn verify(&self, check: &dyn Fn() -> Result<()>) -> Result<Vec<Damage>> {
        self.verify_with(check, &|file, problem| self.gone(file, problem))
    }

    fn verify_with(&self, check: &dyn Fn() -> Result<()>, gone: Gone<'_>) -> Result<Vec<Damage>> {
        let mut findings = Vec::new();
        let mut note = |result: Result<Vec<Damage>>| match result {
            Ok(found) => {
                findings.extend(found);
                Ok(())
            }
            Err(Error::Corrupt(damage)) => {
                findings.push(*damage);
                Ok(())
            }
            Err(error) => Err(error),
        };
        let name = format!("{MANIFESTS}/{}", Manifest::name(self.manifest.number));
        let own = match Map::read(&*self.storage, &self.root.join(&name)) {
            Err(Error::Io { source, .. }) if source.kind() == ErrorKind::NotFound => {
                Err(gone(&name, "it is missing"))
            }
            own => own,
        };
        note(own.and_then(|map| Reader::new(map.named(&name))?.verify(check)))?;
        for file in self.manifest.files.keys() {
            note(
                self.fresh_reader(file, gone)
                    .and_then(|reader| reader.verify(check)),
            )?;
        }
        Ok(findings)
    }
}
