use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use osler_core::error::Error;
use osler_core::file::shape::Shape;
use osler_core::file::{Section, kind};
use osler_core::fs::Storage;
use osler_core::fs::testing::{FAULTS, Fault, Memory};
use osler_core::planted::{Bug, plant};
use osler_core::random::Stream;
use osler_core::store::testing::{History, Returned};
use osler_core::store::{Change, New, Store, recover};

const EIO: i32 = 5;
const COMMITS: u64 = 7;

fn root() -> PathBuf {
    PathBuf::from("/data/cases.osler")
}

fn go_on() -> Result<(), Error> {
    Ok(())
}

/// Bytes that say which commit wrote them.
fn payload(commit: u64, file: u64) -> Vec<u8> {
    let mut stream = Stream::new(commit, 7, file);
    let length = 300 + stream.below(5000) as usize;
    (0..length).map(|_| stream.next_u64() as u8).collect()
}

fn state(commit: u64) -> Vec<u8> {
    format!("state of commit {commit}").into_bytes()
}

fn section(bytes: &[u8]) -> Section<'_> {
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
fn commit(store: &Store, number: u64) -> Result<(), Error> {
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
fn erase(store: &Store, number: u64) -> Result<(), Error> {
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

fn open(memory: &Memory, writable: bool) -> Result<Store, Error> {
    Store::open(Arc::new(memory.clone()), &root(), writable)
}

fn history(seed: u64) -> History {
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
fn unlisted(memory: &Memory, store: &Store) -> Vec<PathBuf> {
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

/// Cuts the power after every step, in many ways; returns the states seen.
fn power_cuts(seed: u64, ways: usize) -> Result<usize, String> {
    let history = history(seed);
    let mut stream = Stream::new(seed, 1, 0);
    let mut states = 0;
    for steps in 0..=history.memory.steps() {
        for way in 0..ways {
            let found = history.power_cut(steps, &mut stream);
            states += found.map_err(|e| format!("seed {seed}, {steps} steps, way {way}: {e}"))?;
        }
    }
    Ok(states)
}

#[test]
fn a_power_cut_leaves_whole_commits() {
    let seed = 41;
    println!("seed {seed}");
    let states = power_cuts(seed, 40).unwrap();
    println!("{states} states");
    assert!(states > 10_000);
}

#[test]
fn planted_bugs_are_seen_by_power_cuts() {
    for bug in [
        Bug::FileNotSynced,
        Bug::FolderNotSynced,
        Bug::ManifestsNotSynced,
        Bug::PublishedFirst,
        Bug::NumberUsedAgain,
    ] {
        plant(Some(bug));
        let seen = power_cuts(42, 12).is_err();
        plant(None);
        assert!(seen, "{bug:?}");
    }
}

/// Fails every call of some work, in every way, and looks at what it left; returns how many calls failed.
fn every_failed_call<T>(
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
fn is_left(memory: &Memory, done: &Result<(), Error>, states: [u64; 2]) -> Result<(), String> {
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

/// Fails every call of one commit and of the opening before it.
fn failed_calls(seed: u64) -> Result<usize, String> {
    let work = |memory: &Memory| {
        let store = open(memory, true)?;
        Ok((commit(&store, COMMITS + 1), store))
    };
    let look = |memory: &Memory, done: Result<(Result<(), Error>, Store), Error>| {
        let done = match done {
            Ok((done, store)) => {
                if let Err(error) = &done {
                    let again = commit(&store, COMMITS + 2);
                    let stopped = matches!(&again, Err(Error::Refused { code, .. }) if *code == "write_failed");
                    if !stopped {
                        return Err(format!("the writer goes on after {error}"));
                    }
                }
                done
            }
            Err(error) => Err(error),
        };
        is_left(memory, &done, [COMMITS, COMMITS + 1])
    };
    every_failed_call(&history(seed).memory, work, look)
}

#[test]
fn a_failed_call_stops_the_writer_and_loses_nothing() {
    let struck = failed_calls(43).unwrap();
    println!("{struck} failed calls");
    assert!(struck > 100);
    plant(Some(Bug::NotPoisoned));
    let seen = failed_calls(43).is_err();
    plant(None);
    assert!(seen);
}

#[test]
fn a_failed_call_of_creating_leaves_nothing_or_says_that_it_may() {
    let create =
        |memory: &Memory| Store::create(Arc::new(memory.clone()), &root(), &state(0)).map(drop);
    let look = |memory: &Memory, done: Result<(), Error>| {
        let names = memory.list(Path::new("/data")).unwrap();
        let made = names.iter().any(|entry| entry.name == "cases.osler");
        let right = match &done {
            Ok(()) => made,
            Err(Error::CommitUnknown(_)) => true,
            Err(_) => !made,
        };
        if !right {
            return Err(format!("{names:?} after {done:?}"));
        }
        if made {
            is_left(memory, &Ok(()), [0, 0])
        } else {
            create(memory).map_err(|e| e.to_string())
        }
    };
    let struck = every_failed_call(&Memory::new(Path::new("/data"), 50), create, look).unwrap();
    println!("{struck} failed calls");
    assert!(struck > 100);
}

#[test]
fn a_failed_call_of_recovering_leaves_one_of_the_two_states() {
    let work = |memory: &Memory| {
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        recover::recover(&storage, &root(), COMMITS - 1, &go_on).map(drop)
    };
    let look =
        |memory: &Memory, done: Result<(), Error>| is_left(memory, &done, [COMMITS, COMMITS + 1]);
    let struck = every_failed_call(&history(51).memory, work, look).unwrap();
    println!("{struck} failed calls");
    assert!(struck > 100);
}

#[test]
fn a_power_cut_in_recovering_leaves_one_of_the_two_states() {
    let memory = history(55).memory.fork();
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    assert_eq!(
        recover::recover(&storage, &root(), COMMITS - 2, &go_on).unwrap(),
        COMMITS + 1
    );
    let mut stream = Stream::new(56, 1, 0);
    let mut choose = |n: usize| stream.below(n as u64) as usize;
    for steps in 0..=memory.steps() {
        for _ in 0..40 {
            let left = memory.after_power_cut(steps, &mut choose);
            let unknown = Err(Error::CommitUnknown(String::new()));
            let done = if steps == memory.steps() {
                Ok(())
            } else {
                unknown
            };
            is_left(&left, &done, [COMMITS, COMMITS + 1]).unwrap();
        }
    }
}

#[test]
fn recovering_goes_not_behind_an_erasure_that_was_cut_short() {
    let history = history(52);
    let memory = history.memory.fork();
    let writer = open(&memory, true).unwrap();
    let start = memory.steps();
    erase(&writer, COMMITS + 1).unwrap();
    let erased = COMMITS + 1;
    let mut looked = 0;
    for steps in start..memory.steps() {
        let left = memory.after_power_cut(steps, &mut |n| n - 1);
        let storage: Arc<dyn Storage> = Arc::new(left.clone());
        let states = recover::states(&storage, &root(), &go_on).unwrap();
        if states[0].number < erased {
            continue;
        }
        looked += 1;
        assert_eq!(states.len(), 1, "after {steps} steps");
        let undone = recover::recover(&storage, &root(), COMMITS, &go_on);
        assert!(
            matches!(undone, Err(Error::Input(_))),
            "after {steps} steps"
        );
        let again = recover::recover(&storage, &root(), erased, &go_on);
        assert_eq!(again.unwrap(), erased + 1);
        let store = open(&left, false).unwrap();
        assert_eq!(store.snapshot().manifest().oldest, erased);
    }
    assert!(looked > 3, "{looked}");
}

#[test]
fn states_behind_a_damaged_one_can_be_recovered() {
    let history = history(53);
    let memory = history.memory.fork();
    let store = open(&memory, false).unwrap();
    let newest = store.snapshot();
    drop(store);
    let storage: Arc<dyn Storage> = Arc::new(memory.clone());
    let mut broken = 0;
    for name in newest.manifest().files.keys() {
        let memory = memory.fork();
        let storage: Arc<dyn Storage> = Arc::new(memory.clone());
        memory.overwrite(&root().join(name), vec![0; 10]);
        let states = recover::states(&storage, &root(), &go_on).unwrap();
        assert_eq!(states.len(), 4);
        assert_eq!(states[0].damage[0].file, *name);
        broken += 1;
        let Some(sound) = states.iter().find(|one| one.damage.is_empty()) else {
            continue;
        };
        let number = recover::recover(&storage, &root(), sound.number, &go_on).unwrap();
        assert_eq!(number, COMMITS + 1);
        is_left(&memory, &Ok(()), [0, number]).unwrap();
    }
    assert!(broken > 3);
    let folders = memory.list(&root()).unwrap();
    let manifests = root().join("manifests");
    assert!(folders.iter().any(|entry| entry.name == "manifests"));
    for entry in memory.list(&manifests).unwrap() {
        memory.remove(&manifests.join(entry.name)).unwrap();
    }
    memory.remove_folder(&manifests).unwrap();
    let missing = recover::states(&storage, &root(), &go_on).map(|states| states.len());
    assert!(matches!(missing, Err(Error::Corrupt(damage)) if damage.file == "manifests"));
}

#[test]
fn a_copy_without_its_empty_folders_can_be_written_to() {
    let memory = Memory::new(Path::new("/data"), 54);
    drop(Store::create(Arc::new(memory.clone()), &root(), &state(0)).unwrap());
    for folder in memory.list(&root()).unwrap() {
        if folder.folder && folder.name != "manifests" {
            memory.remove_folder(&root().join(folder.name)).unwrap();
        }
    }
    assert_eq!(
        open(&memory, false).unwrap().snapshot().manifest().number,
        0
    );
    is_left(&memory, &Ok(()), [0, 0]).unwrap();
}

/// Erases while a reader holds the state before, cuts the power after every step, and opens for writing: where the new
/// state is in force, nothing of the old one is left. Returns the number of states.
fn erasures() -> Result<usize, String> {
    let history = history(47);
    let erased = |memory: &Memory, store: &Store| {
        let number = store.snapshot().manifest().number;
        let manifests = memory.files().into_iter().filter(|(path, _)| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            name.ends_with(".manifest")
        });
        let alone = manifests.count() == 1 && unlisted(memory, store).is_empty();
        (number == COMMITS + 1, alone)
    };
    let memory = history.memory.fork();
    let reader = open(&memory, false).unwrap();
    let held = reader.snapshot();
    let writer = open(&memory, true).unwrap();
    let start = memory.steps();
    erase(&writer, COMMITS + 1).map_err(|e| e.to_string())?;
    if erased(&memory, &writer) != (true, true) {
        return Err("something of the old state is there when the call returns".to_owned());
    }
    // The reader is told that its files are gone, and not that they are damaged.
    let gone = held.manifest().files.keys().all(|name| {
        let found = held.reader(name);
        matches!(found, Err(Error::Refused { code: "stale", .. }))
    });
    if !gone {
        return Err("a reader of the old state is not told".to_owned());
    }
    let mut states = 0;
    let mut stream = Stream::new(48, 1, 0);
    let mut choose = |n: usize| stream.below(n as u64) as usize;
    for steps in start..=memory.steps() {
        for _ in 0..40 {
            let left = memory.after_power_cut(steps, &mut choose);
            let store = open(&left, true).map_err(|e| e.to_string())?;
            let (new, alone) = erased(&left, &store);
            let end = steps == memory.steps();
            if new && !alone || end && !new {
                return Err(format!("after {steps} steps: {new}, {alone}"));
            }
            states += 1;
        }
    }
    Ok(states)
}

#[test]
fn what_was_erased_is_gone_when_the_call_returns_and_after_any_power_cut() {
    let states = erasures().unwrap();
    println!("{states} states");
    plant(Some(Bug::OldStateKept));
    let seen = erasures().is_err();
    plant(None);
    assert!(seen);
}

#[test]
fn an_erasure_that_cannot_remove_a_file_says_so() {
    let history = history(49);
    let mut said = 0;
    for call in 0.. {
        let memory = history.memory.fork();
        let store = open(&memory, true).unwrap();
        memory.fail(call, Fault::Error(EIO));
        let done = erase(&store, COMMITS + 1);
        let Some(what) = memory.struck() else { break };
        if matches!(&done, Err(Error::Refused { code, .. }) if *code == "not_erased") {
            said += 1;
        } else if done.is_ok() {
            assert!(unlisted(&memory, &store).is_empty(), "{what}");
        }
        drop(store);
        let store = open(&memory, true).unwrap();
        if store.snapshot().manifest().number == COMMITS + 1 {
            assert!(unlisted(&memory, &store).is_empty(), "{what}");
        }
    }
    assert!(said > 5, "{said}");
}

#[test]
fn every_flipped_bit_is_found_and_named() {
    let history = history(44);
    let store = open(&history.memory, false).unwrap();
    let snapshot = store.snapshot();
    let number = snapshot.manifest().number;
    let mut wanted = vec![
        "FORMAT".to_owned(),
        format!("manifests/{number:020}.manifest"),
    ];
    wanted.extend(snapshot.manifest().files.keys().cloned());
    let mut flips = 0;
    for name in wanted {
        let memory = history.memory.fork();
        let path = root().join(&name);
        let files = memory.files();
        let (_, content) = files.iter().find(|(found, _)| *found == path).unwrap();
        let mut bytes = content.to_vec();
        // Every bit of a byte in turn: all bits of one page take as long as a bit of every byte of many.
        for at in 0..bytes.len() {
            let bit = 1 << (at % 8);
            bytes[at] ^= bit;
            memory.overwrite(&path, bytes.clone());
            bytes[at] ^= bit;
            flips += 1;
            let found = open(&memory, false).and_then(|store| store.snapshot().verify(&go_on));
            let damage = match found {
                Ok(findings) => findings.into_iter().next(),
                Err(Error::Corrupt(damage)) => Some(*damage),
                Err(error) => panic!("{name} at {at}: {error}"),
            };
            let damage = damage.unwrap_or_else(|| panic!("{name} at {at} passed"));
            assert_eq!(damage.file, name, "at {at}: {damage}");
            assert!(!damage.section.is_empty());
        }
    }
    println!("{flips} flips");
}

#[test]
fn a_damaged_newest_manifest_is_refused_and_not_passed_over() {
    let history = history(45);
    let memory = history.memory.fork();
    let path = root().join(format!("manifests/{COMMITS:020}.manifest"));
    let files = memory.files();
    let (_, content) = files.iter().find(|(found, _)| *found == path).unwrap();
    let mut bytes = content.to_vec();
    bytes[5000] ^= 4;
    memory.overwrite(&path, bytes);
    let refused = |memory: &Memory| matches!(open(memory, false), Err(Error::Corrupt(_)));
    assert!(refused(&memory));
    plant(Some(Bug::OlderManifest));
    let passed_over = !refused(&memory);
    plant(None);
    assert!(passed_over, "the planted bug must be one");
}

/// A reader stays at its state while a writer goes on, and what nobody holds is removed after it.
fn readers_and_one_writer() -> Result<(), String> {
    let history = history(46);
    let memory = history.memory.fork();
    let writer = open(&memory, true).unwrap();
    assert!(matches!(open(&memory, true), Err(Error::Locked(_))));
    let reader = open(&memory, false).unwrap();
    let refused = commit(&reader, 99);
    assert!(matches!(
        refused,
        Err(Error::Refused {
            code: "read_only",
            ..
        })
    ));
    for number in 0..12 {
        commit(&writer, COMMITS + 1 + number).unwrap();
    }
    let findings = reader.snapshot().verify(&go_on);
    if !matches!(&findings, Ok(findings) if findings.is_empty()) {
        return Err(format!("the reader's files: {findings:?}"));
    }
    assert_eq!(reader.snapshot().manifest().number, COMMITS);
    drop(reader);
    commit(&writer, 20).unwrap();
    drop(writer);
    drop(memory.create(&root().join("tmp/left")).unwrap());
    let writer = open(&memory, true).unwrap();
    let files = memory.files();
    let held = |folder: &str| {
        let folder = root().join(folder);
        files
            .iter()
            .filter(|(path, _)| path.starts_with(&folder))
            .count()
    };
    if held("manifests") != 4 {
        return Err("manifests that nobody holds are there".to_owned());
    }
    // Those of the retained manifests, of which each dropped one file.
    let left = unlisted(&memory, &writer);
    if left.len() > 3 || held("tmp") > 0 {
        return Err(format!("files that nobody lists: {left:?}"));
    }
    Ok(())
}

#[test]
fn one_writes_and_readers_keep_their_files() {
    readers_and_one_writer().unwrap();
    for bug in [Bug::LeaseIgnored, Bug::NotSwept] {
        plant(Some(bug));
        let seen = readers_and_one_writer().is_err();
        plant(None);
        assert!(seen, "{bug:?}");
    }
}

#[test]
fn an_ignored_checksum_would_be_seen() {
    let history = history(47);
    let memory = history.memory.fork();
    let store = open(&memory, false).unwrap();
    let snapshot = store.snapshot();
    let name = snapshot.manifest().files.keys().next().unwrap();
    let path = root().join(name);
    let files = memory.files();
    let (_, content) = files.iter().find(|(found, _)| *found == path).unwrap();
    let mut bytes = content.to_vec();
    bytes[4100] ^= 1;
    memory.overwrite(&path, bytes);
    let found = || store.snapshot().verify(&go_on).unwrap().len();
    assert_eq!(found(), 1);
    plant(Some(Bug::ChecksumIgnored));
    let ignored = found() == 0;
    plant(None);
    assert!(ignored, "the planted bug must be one");
}
