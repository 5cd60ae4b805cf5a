use std::path::Path;

use osler_core::error::Result;
use osler_core::fs::Storage;
use osler_core::fs::private::{keep, read, remove};
use osler_core::fs::testing::Memory;
use osler_core::planted::{Bug, plant};
use osler_core::random::Stream;

use crate::directories::every_failed_call;

const FIRST: &[u8] = &[7; 48];
const SECOND: &[u8] = &[9; 48];

fn folder() -> Memory {
    let memory = Memory::new(Path::new("/data"), 5);
    // Another's draft, and names that look like one of ours.
    for name in [".other.secret.tmp", ".cases.secret.old", "cases.secret2"] {
        memory
            .create(&Path::new("/data").join(name))
            .unwrap_or_else(|_| unreachable!());
    }
    memory.settle();
    memory
}

fn made(memory: &Memory, bytes: &[u8]) -> Result<Vec<u8>> {
    keep(memory, Path::new("/data/cases.secret"), bytes)
}

/// Whether one that comes later finds a whole key, and no draft is left then.
fn is_whole(memory: &Memory, allowed: &[&[u8]]) -> std::result::Result<(), String> {
    let found = made(memory, SECOND).map_err(|e| e.to_string())?;
    if !allowed.contains(&found.as_slice()) {
        return Err(format!("found {found:?}"));
    }
    no_draft_is_left(memory)
}

fn no_draft_is_left(memory: &Memory) -> std::result::Result<(), String> {
    let names = memory.list(Path::new("/data")).map_err(|e| e.to_string())?;
    let wanted = [
        ".cases.secret.old",
        ".other.secret.tmp",
        "cases.secret",
        "cases.secret2",
    ];
    if names.iter().map(|entry| &entry.name).ne(wanted.iter()) {
        return Err(format!("left {names:?}"));
    }
    Ok(())
}

/// Cuts the power after every step of making a key, in many ways.
fn power_cuts() -> std::result::Result<(), String> {
    let memory = folder();
    made(&memory, FIRST).map_err(|e| e.to_string())?;
    let returned = memory.steps();
    let mut stream = Stream::new(6, 1, 0);
    for steps in 0..=returned {
        for _ in 0..60 {
            let left = memory.after_power_cut(steps, &mut |n| stream.below(n as u64) as usize);
            // Once it was returned, pseudonyms may depend on it.
            let allowed: &[&[u8]] = if steps == returned {
                &[FIRST]
            } else {
                &[FIRST, SECOND]
            };
            is_whole(&left, allowed).map_err(|e| format!("{steps} steps: {e}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_power_cut_leaves_a_whole_key_or_none() {
    power_cuts().unwrap();
    plant(Some(Bug::KeyNotSynced));
    let seen = power_cuts().is_err();
    plant(None);
    assert!(seen);
}

#[test]
fn a_failed_call_leaves_a_whole_key_or_none() {
    let look = |memory: &Memory, done: Result<Vec<u8>>| {
        let allowed: &[&[u8]] = if done.is_ok() {
            &[FIRST]
        } else {
            &[FIRST, SECOND]
        };
        // It is not made again once it was, so nobody would remove a draft.
        if done.is_ok() {
            no_draft_is_left(&memory.fork())?;
        }
        is_whole(&memory.fork(), allowed)
    };
    let struck = every_failed_call(&folder(), |memory| made(memory, FIRST), look).unwrap();
    println!("{struck} failed calls");
    assert!(struck > 40);
}

#[test]
fn the_first_key_stays_until_it_is_removed() {
    let memory = folder();
    let path = Path::new("/data/cases.secret");
    assert!(read(&memory, path).is_err());
    assert_eq!(made(&memory, FIRST).unwrap(), FIRST);
    assert_eq!(made(&memory, SECOND).unwrap(), FIRST);
    assert_eq!(read(&memory, path).unwrap(), FIRST);
    remove(&memory, path).unwrap();
    remove(&memory, path).unwrap();
    assert_eq!(made(&memory, SECOND).unwrap(), SECOND);
}

#[test]
fn all_that_make_it_at_once_get_the_same() {
    for _ in 0..200 {
        let memory = folder();
        let found = std::thread::scope(|scope| {
            let makers = [FIRST, SECOND].map(|key| scope.spawn(|| made(&memory, key)));
            makers.map(|maker| maker.join().unwrap().unwrap())
        });
        assert_eq!(found[0], found[1]);
        no_draft_is_left(&memory).unwrap();
    }
}
