use osler_core::error::Error;
use osler_core::fs::testing::{Fault, Memory};
use osler_core::planted::{Bug, plant};
use osler_core::random::Stream;
use osler_core::store::Store;

use crate::directories::{COMMITS, commit, erase, history, open, unlisted};

const ENOENT: i32 = 2;
const EIO: i32 = 5;
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
fn a_file_that_goes_while_it_is_opened_is_told_as_others_are() {
    let memory = history(50).memory.fork();
    let held = open(&memory, false).unwrap().snapshot();
    let names = held.manifest().files.keys().collect::<Vec<_>>();
    // Its length is read first.
    let goes = |name: &str| {
        memory.fail(1, Fault::Error(ENOENT));
        let found = held.reader(name).err();
        assert!(
            memory
                .struck()
                .is_some_and(|call| call.starts_with("open "))
        );
        found
    };
    let found = goes(names[0]);
    assert!(matches!(found, Some(Error::Corrupt(_))), "{found:?}");
    commit(&open(&memory, true).unwrap(), COMMITS + 1).unwrap();
    let found = goes(names[0]);
    let told = matches!(found, Some(Error::Refused { code: "stale", .. }));
    assert!(told, "{found:?}");
}
