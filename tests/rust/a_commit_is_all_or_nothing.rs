use std::path::Path;
use std::sync::Arc;

use osler_core::error::Error;
use osler_core::fs::Storage;
use osler_core::fs::testing::Memory;
use osler_core::planted::{Bug, plant};
use osler_core::random::Stream;
use osler_core::store::Store;

use crate::directories::{
    COMMITS, commit, every_failed_call, go_on, history, is_left, open, root, state, unlisted,
};
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
