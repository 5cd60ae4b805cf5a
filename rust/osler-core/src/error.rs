//! How calls fail: one variant for each thing that a caller does differently.
//!
//! Touches nothing else. A message says what, where and what to do; lower case, no full stop, no value of a patient.

use std::fmt;
use std::io;
use std::path::Path;

/// The result of every fallible call of the engine.
pub type Result<T> = std::result::Result<T, Error>;

/// The result of touching stored rows, which can only fail by damage of the file that they lie in.
pub type Read<T> = std::result::Result<T, Box<Damage>>;

/// Why a call failed. Unless a variant says otherwise, nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The caller's arguments cannot be used.
    #[error("{0}")]
    Input(String),
    /// A key that must be there is not.
    #[error("key {0} is not in the index")]
    MissingKey(u64),
    /// The index was opened for reading only.
    #[error("this index is mapped and read-only; open it with mmap=False to change it")]
    ReadOnly,
    /// The caller asked for the work to stop.
    #[error("interrupted; the index is as it was before the call")]
    Cancelled,
    /// Bytes of a file are damaged.
    #[error("{0}")]
    Corrupt(Box<Damage>),
    /// The file is of a format that this version does not read.
    #[error("{file} has format version {found}; this version of Osler reads {oldest} to {newest}")]
    Version {
        /// Name of the file.
        file: String,
        /// Version that the file states.
        found: u32,
        /// Oldest version that can be read.
        oldest: u32,
        /// Newest version that can be read.
        newest: u32,
    },
    /// The file uses what this version does not know.
    #[error(
        "{file} has format version {version} with features {features:#x} that this version of Osler, which knows none, does not read; open it with a newer one"
    )]
    Feature {
        /// Name of the file.
        file: String,
        /// Version that the file states.
        version: u32,
        /// Bits of what it uses.
        features: u64,
    },
    /// Another writes to the collection.
    #[error("{0}")]
    Locked(String),
    /// A change was published and may or may not survive; opening again tells.
    #[error("{0}")]
    CommitUnknown(String),
    /// What an open collection is asked for cannot be, for a reason that has a code.
    #[error("{message}")]
    Refused {
        /// A stable name of the reason.
        code: &'static str,
        /// What is wrong and what to do.
        message: String,
    },
    /// There is not enough memory for the results.
    #[error(
        "the results need {0} bytes, more than there is memory for; lower k or split the batch"
    )]
    Memory(usize),
    /// The operating system refused.
    #[error("cannot {verb} {file}: {source}")]
    Io {
        /// What was tried.
        verb: &'static str,
        /// Name of the file, without its folder.
        file: String,
        /// What the system said.
        source: io::Error,
    },
}

/// One damaged place of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Name of the file, without its folder.
    pub file: String,
    /// Part of the file, as named in `FORMAT.md`.
    pub section: String,
    /// First byte of the damaged place.
    pub offset: u64,
    /// What is wrong there.
    pub problem: String,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} is damaged in section {} at byte {}: {}; restore it from a copy or build it again",
            self.file, self.section, self.offset, self.problem
        )
    }
}

impl From<Damage> for Error {
    fn from(damage: Damage) -> Self {
        Error::Corrupt(Box::new(damage))
    }
}

impl Error {
    /// An [`Error::Input`] from anything that prints.
    pub fn input(message: impl Into<String>) -> Self {
        Error::Input(message.into())
    }

    /// An [`Error::Io`] that names the file without its folder.
    pub fn io(verb: &'static str, path: &Path, source: io::Error) -> Self {
        Error::Io {
            verb,
            file: file_name(path),
            source,
        }
    }
}

/// The last component of a path, for messages.
pub fn file_name(path: &Path) -> String {
    path.file_name().map_or_else(
        || "the file".to_owned(),
        |name| name.to_string_lossy().into_owned(),
    )
}

impl From<Box<Damage>> for Error {
    fn from(damage: Box<Damage>) -> Self {
        Error::Corrupt(damage)
    }
}
