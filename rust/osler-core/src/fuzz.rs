//! Files that a fuzzer makes, put to every use: each is refused or read, and nothing else happens. For tests only.
//!
//! What panics, hangs or asks for much memory is for the caller to see.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use crate::error::{Error, Result};
use crate::file::Reader;
use crate::file::map::Map;
use crate::file::testing::{Loose, lie, spoil};
use crate::fs::Storage;
use crate::fs::testing::Memory;
use crate::index::Index;
use crate::pool::Control;
use crate::query::Ask;
use crate::random::Stream;
use crate::store::manifest::Manifest;
use crate::store::payload::Column;

/// What a file is read as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// An index.
    Index,
    /// A manifest.
    Manifest,
    /// A segment.
    Segment,
}

/// What became of the files.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcomes {
    /// Files that were made.
    pub files: usize,
    /// Files that were read to their end.
    pub read: usize,
}

/// Told of the bytes of a file, and of its use as a function that it must call once.
pub type Measure<'a> = dyn FnMut(usize, &mut dyn FnMut()) -> std::result::Result<(), String> + 'a;

fn made(base: &[u8], loose: &Loose, stream: &mut Stream) -> Vec<u8> {
    match stream.below(8) {
        0..=2 => spoil(base, stream),
        3 => lie(base, stream),
        _ => {
            let mut loose = loose.clone();
            for _ in 0..=stream.below(3) {
                loose.change(stream);
            }
            loose.to_bytes()
        }
    }
}

/// Makes `count` files of a sound one and uses each; `measure` is told of each use, around it.
///
/// # Errors
/// The number of the file that made it panic, with what that said, or an error of another sort than damage.
pub fn run(
    target: Target,
    base: &[u8],
    seed: u64,
    count: usize,
    measure: &mut Measure<'_>,
) -> std::result::Result<Outcomes, String> {
    let loose = Loose::of(base).map_err(|e| e.to_string())?;
    let mut outcomes = Outcomes::default();
    for number in 0..count {
        let mut stream = Stream::new(seed, 4, number as u64);
        let bytes = made(base, &loose, &mut stream);
        let mut result = Ok(Ok(()));
        measure(bytes.len(), &mut || {
            result = catch_unwind(AssertUnwindSafe(|| used(target, &bytes)));
        })
        .map_err(|e| format!("{target:?}, seed {seed}, file {number}: {e}"))?;
        outcomes.files += 1;
        match result {
            Ok(Ok(())) => outcomes.read += 1,
            Ok(Err(
                Error::Corrupt(_)
                | Error::Version { .. }
                | Error::Feature { .. }
                | Error::Input(_)
                | Error::Memory(_),
            )) => {}
            Ok(Err(error)) => {
                return Err(format!("{target:?}, seed {seed}, file {number}: {error}"));
            }
            Err(panic) => {
                let text = panic.downcast_ref::<String>().cloned();
                let text = text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
                return Err(format!("{target:?}, seed {seed}, file {number}: {text:?}"));
            }
        }
    }
    Ok(outcomes)
}

fn used(target: Target, bytes: &[u8]) -> Result<()> {
    match target {
        Target::Index => index(bytes),
        Target::Manifest => {
            let reader = Reader::new(Map::owned(bytes, "the file"))?;
            let manifest = Manifest::read(&reader)?;
            let again = manifest.tables();
            drop(again.sections());
            Ok(())
        }
        Target::Segment => {
            let reader = Reader::new(Map::owned(bytes, "the file"))?;
            for name in Column::names() {
                let column = Column::named(name)?;
                if !column.is_in(&reader) {
                    continue;
                }
                let (rows, _) = column.shape(&reader)?;
                column.range(&reader, 0, rows)?;
                if rows > 0 {
                    column.gather(&reader, &[0, rows as u64 / 2])?;
                }
            }
            Ok(())
        }
    }
}

fn index(bytes: &[u8]) -> Result<()> {
    let control = Control::default();
    let path = Path::new("/data/a.index");
    let memory = Memory::new(Path::new("/data"), 1);
    let failed = |e| Error::io("write", path, e);
    let mut file = memory.create(path).map_err(failed)?;
    file.write_at(0, bytes).map_err(failed)?;
    drop(file);
    let mapped = Index::open(&memory, path, true, &control)?;
    let first = ask(&mapped);
    let whole = mapped.verify(&control)?;
    if !whole.is_empty() {
        return Err(whole[0].clone().into());
    }
    // What passes every check must answer.
    first?;
    let owned = Index::from_bytes(bytes, &control)?;
    ask(&owned)?;
    let dim = owned.params().dim;
    let keys = owned.snapshot().live_keys()?;
    owned.delete(&keys[..keys.len() / 3], 1, &control)?;
    let rows = (0..3 * dim).map(|i| (i % 7) as f32 - 2.5).collect();
    owned.add(
        rows,
        Some(&[u64::MAX - 9, u64::MAX - 8, u64::MAX - 7]),
        1,
        &control,
    )?;
    ask(&owned)?;
    owned.to_bytes(1, &control).map(drop)
}

fn ask(index: &Index) -> Result<()> {
    let control = Control::default();
    let state = index.snapshot();
    let dim = index.params().dim;
    let mut queries: Vec<f32> = (0..2 * dim).map(|i| (i % 5) as f32 - 1.5).collect();
    index.prepare(&mut queries)?;
    for exact in [false, true] {
        let ask = Ask {
            k: 5,
            recall: 0.95,
            ef: None,
            exact,
            allowed: None,
            limit: None,
            exclude: None,
        };
        let found = index.search(&state, &queries, ask, 1, &control)?;
        let hits = found.counts.iter().sum::<i64>() as usize;
        if hits > found.keys.len() || found.scores.iter().any(|score| score.is_nan()) {
            return Err(Error::Io {
                verb: "trust",
                file: "an answer".to_owned(),
                source: std::io::ErrorKind::Other.into(),
            });
        }
    }
    let keys = state.live_keys()?;
    index.get(&keys[..keys.len().min(20)]).map(drop)
}
