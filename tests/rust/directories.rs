//! Directories in memory for tests of the store: a history of commits, and what may be left of one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use osler_core::error::Error;
use osler_core::file::shape::Shape;
use osler_core::file::{Section, kind};
use osler_core::fs::testing::{FAULTS, Memory};
use osler_core::random::Stream;
use osler_core::store::testing::{History, Returned};
use osler_core::store::{Change, New, Store};

/// Commits of a history.
pub const COMMITS: u64 = 7;
pub fn root() -> PathBuf {
    PathBuf::from("/data/cases.osler")
}

pub fn go_on() -> Result<(), Error> {
    Ok(())
}

/// Bytes that say which commit wrote them.
pub fn payload(commit: u64, file: u64) -> Vec<u8> {
    let mut stream = Stream::new(commit, 7, file);
    let length = 300 + stream.below(5000) as usize;
    (0..length).map(|_| stream.next_u64() as u8).collect()
}

pub fn state(commit: u64) -> Vec<u8> {
    format!("state of commit {commit}").into_bytes()
}

pub fn section(bytes: &[u8]) -> Section<'_> {
    let shape = Shape {
        rows: bytes.len(),
        width: 1,
        stride: 1,
        element: 1,
        shift: 16,
    };
    Section::new(kind::STATE, 0, shape, move |_| Ok(bytes))
}

/// Adds two files, and drops the oldest one that is listed if there are many.
pub fn commit(store: &Store, number: u64) -> Result<(), Error> {
    let folders = ["segments", "tombstones", "locators"];
    let payloads = [payload(number, 0), payload(number, 1)];
    let mut new = BTreeMap::new();
    for (file, bytes) in payloads.iter().enumerate() {
        let folder = folders[(number as usize + file) % folders.len()];
        let name = format!("{folder}/{:032x}.part", store.random()?);
        new.insert(name, New::Sections(vec![section(bytes)]));
    }
    let snapshot = store.snapshot();
    let files = snapshot.manifest().files.keys();
    let drop = files.take(usize::from(number > 2)).cloned().collect();
    let change = Change {
        parent: Some(snapshot.manifest().number),
        state: state(number),
        new,
        drop,
        forget: false,
    };
    store.commit(change, &go_on)
}

/// Adds one file, drops all others, and forgets what came before.
pub fn erase(store: &Store, number: u64) -> Result<(), Error> {
    let snapshot = store.snapshot();
    let payload = payload(number, 0);
    let name = format!("segments/{:032x}.part", store.random()?);
    let change = Change {
        parent: Some(snapshot.manifest().number),
        state: state(number),
        new: BTreeMap::from([(name, New::Sections(vec![section(&payload)]))]),
        drop: snapshot.manifest().files.keys().cloned().collect(),
        forget: true,
    };
    store.commit(change, &go_on)
}

pub fn open(memory: &Memory, writable: bool) -> Result<Store, Error> {
    Store::open(Arc::new(memory.clone()), &root(), writable)
}

pub fn history(seed: u64) -> History {
    let memory = Memory::new(Path::new("/data"), seed);
    let store = Store::create(Arc::new(memory.clone()), &root(), &state(0)).unwrap();
    let returned = |memory: &Memory| {
        let snapshot = store.snapshot();
        let manifest = snapshot.manifest();
        Returned {
            number: manifest.number,
            id: manifest.id,
            steps: memory.steps(),
        }
    };
    let mut calls = vec![returned(&memory)];
    for number in 1..=COMMITS {
        commit(&store, number).unwrap();
        calls.push(returned(&memory));
    }
    History {
        memory,
        root: root(),
        calls,
    }
}

/// Files of the directory that no manifest there lists.
pub fn unlisted(memory: &Memory, store: &Store) -> Vec<PathBuf> {
    let snapshot = store.snapshot();
    let listed = &snapshot.manifest().files;
    let files = memory.files().into_iter().map(|(path, _)| path);
    files
        .filter(|path| {
            let name = path.strip_prefix(root()).unwrap().to_string_lossy();
            let fixed = name == "FORMAT" || name == "LOCK" || name.starts_with("manifests/");
            !fixed && !listed.contains_key(&*name)
        })
        .collect()
}

/// Fails every call of some work, in every way, and looks at what it left; returns how many calls failed.
pub fn every_failed_call<T>(
    start: &Memory,
    work: impl Fn(&Memory) -> T,
    look: impl Fn(&Memory, T) -> Result<(), String>,
) -> Result<usize, String> {
    let mut struck = 0;
    for fault in FAULTS {
        for call in 0.. {
            let memory = start.fork();
            memory.fail(call, fault);
            let done = work(&memory);
            if !memory.came() {
                break;
            }
            if let Some(what) = memory.struck() {
                struck += 1;
                look(&memory, done).map_err(|problem| format!("{fault:?} of {what}: {problem}"))?;
            }
        }
    }
    Ok(struck)
}

/// Whether a call left the state before it, or that after it, as its result says, and a writer can go on.
pub fn is_left(memory: &Memory, done: &Result<(), Error>, states: [u64; 2]) -> Result<(), String> {
    let [before, after] = states;
    let store = open(memory, true).map_err(|e| e.to_string())?;
    let found = store.snapshot().manifest().number;
    let right = match done {
        Ok(()) => found == after,
        Err(Error::CommitUnknown(_)) => states.contains(&found),
        Err(_) => found == before,
    };
    if !right {
        return Err(format!("commit {found} is found after {done:?}"));
    }
    let findings = store.snapshot().verify(&go_on);
    if !matches!(&findings, Ok(findings) if findings.is_empty()) {
        return Err(format!("{findings:?}"));
    }
    commit(&store, COMMITS + 9).map_err(|e| e.to_string())
}
