//! A manifest: one numbered state of a collection, and every file that it needs.
//!
//! A file of sections like all others; `FORMAT.md`, "The collection directory". What the state means is its owner's affair.

use std::collections::BTreeMap;

use crate::chunks::Rows;
use crate::error::{Error, Result};
use crate::file::{Reader, Section, Written as Listed, kind};
use crate::tables::{section, table_within};

/// Numbers of the first section: commit, its id, the collection's id, the parent's root, the oldest commit to keep.
const NUMBERS: usize = 10;
/// Numbers for each file: its length and its root.
const FACTS: usize = 5;
/// Longest row of a table here.
const WIDEST: usize = FACTS;
/// Folders that listed files lie in.
pub const FOLDERS: [&str; 4] = ["graphs", "locators", "segments", "tombstones"];

/// A hash of a whole file, as its header has it.
pub type Root = [u8; 32];

/// One state of a collection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Of the commit; no number is used twice.
    pub number: u64,
    /// Of the commit, random.
    pub id: u128,
    /// Of the collection, random.
    pub collection: u128,
    /// The hash of the manifest that this one followed; zeros for the first.
    pub parent: Root,
    /// Number of the oldest commit that may be kept: what came before was erased.
    pub oldest: u64,
    /// Files by their name, as in `segments/0123.seg`.
    pub files: BTreeMap<String, Listed>,
    /// What the owner keeps here.
    pub state: Vec<u8>,
}

/// The tables of a manifest on its way into a file.
pub struct Tables {
    numbers: Rows<u64>,
    state: Rows<u8>,
    names: Rows<u8>,
    facts: Rows<u64>,
}

fn words(root: &Root) -> impl Iterator<Item = u64> + '_ {
    root.chunks_exact(8).map(|eight| {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(eight);
        u64::from_le_bytes(bytes)
    })
}

fn root_of(words: &[u64]) -> Root {
    let mut root = [0; 32];
    for (eight, word) in root.chunks_exact_mut(8).zip(words) {
        eight.copy_from_slice(&word.to_le_bytes());
    }
    root
}

fn halves(number: u128) -> [u64; 2] {
    [number as u64, (number >> 64) as u64]
}

fn whole(halves: &[u64]) -> u128 {
    u128::from(halves[0]) | u128::from(halves[1]) << 64
}

fn is_ending(text: &str) -> bool {
    (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_lowercase())
}

/// Whether a name is one that a manifest may list: a folder of ours, and in it 32 hexadecimal digits with an ending.
pub fn is_listable(name: &str) -> bool {
    let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    name.split_once('/').is_some_and(|(folder, file)| {
        let named = file
            .split_once('.')
            .is_some_and(|(id, ending)| id.len() == 32 && id.bytes().all(hex) && is_ending(ending));
        FOLDERS.contains(&folder) && named
    })
}

impl Manifest {
    /// The name of the file that this manifest lies in, without its folder.
    pub fn name(number: u64) -> String {
        format!("{number:020}.manifest")
    }

    /// The number in a name; None for names of any other shape, which are not ours.
    pub fn number_of(name: &str) -> Option<u64> {
        let digits = name.strip_suffix(".manifest")?;
        let shaped = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
        shaped.then(|| digits.parse().ok()).flatten()
    }

    /// The tables that its file consists of.
    pub fn tables(&self) -> Tables {
        let mut numbers = vec![self.number];
        numbers.extend(halves(self.id));
        numbers.extend(halves(self.collection));
        numbers.extend(words(&self.parent));
        numbers.push(self.oldest);
        let names = self.files.keys().flat_map(|name| [name.as_str(), "\n"]);
        let mut facts = Rows::new(FACTS);
        for listed in self.files.values() {
            let mut row = vec![listed.bytes];
            row.extend(words(&listed.root));
            facts.push(&row).expect("a table in memory has no damage");
        }
        Tables {
            numbers: Rows::from_values(&numbers),
            state: Rows::from_values(&self.state),
            names: Rows::from_values(names.collect::<String>().as_bytes()),
            facts,
        }
    }

    /// The manifest in a file.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn read(reader: &Reader) -> Result<Self> {
        let numbers = table_within::<u64>(reader, kind::COMMIT, 0, WIDEST)?.to_vec()?;
        let state = table_within::<u8>(reader, kind::STATE, 0, WIDEST)?.to_vec()?;
        let names = table_within::<u8>(reader, kind::FILE_NAMES, 0, WIDEST)?.to_vec()?;
        let facts = table_within::<u64>(reader, kind::FILE_FACTS, 0, WIDEST)?;
        let bad = |kind, problem: &str| Err(reader.damage(kind, problem));
        if numbers.len() != NUMBERS {
            return bad(kind::COMMIT, "it has another number of entries");
        }
        if numbers[9] > numbers[0] {
            return bad(kind::COMMIT, "it keeps only commits that are still to come");
        }
        let Ok(names) = String::from_utf8(names) else {
            return bad(kind::FILE_NAMES, "it is no text");
        };
        let mut files = BTreeMap::new();
        for (row, name) in names.lines().enumerate() {
            if !is_listable(name) || row >= facts.len() || facts.width() != FACTS {
                return bad(kind::FILE_NAMES, "it has a name that no file may have");
            }
            let facts = facts.row(row)?;
            let listed = Listed {
                bytes: facts[0],
                root: root_of(&facts[1..]),
            };
            files.insert(name.to_owned(), listed);
        }
        if files.len() != facts.len() {
            return bad(kind::FILE_FACTS, "it describes files that have no name");
        }
        Ok(Manifest {
            number: numbers[0],
            id: whole(&numbers[1..3]),
            collection: whole(&numbers[3..5]),
            parent: root_of(&numbers[5..9]),
            oldest: numbers[9],
            files,
            state,
        })
    }
}

impl Tables {
    /// The sections of the file, in order.
    pub fn sections(&self) -> Vec<Section<'_>> {
        vec![
            section(kind::COMMIT, 0, &self.numbers),
            section(kind::STATE, 0, &self.state),
            section(kind::FILE_NAMES, 0, &self.names),
            section(kind::FILE_FACTS, 0, &self.facts),
        ]
    }
}

/// What the first file of a collection says.
///
/// # Errors
/// [`Error::Corrupt`], [`Error::Version`].
pub fn read_format(reader: &Reader, oldest: u64, newest: u64) -> Result<u128> {
    let numbers = table_within::<u64>(reader, kind::COLLECTION, 0, WIDEST)?.to_vec()?;
    let &[version, low, high] = &numbers[..] else {
        return Err(reader.damage(kind::COLLECTION, "it has another number of entries"));
    };
    if !(oldest..=newest).contains(&version) {
        return Err(Error::Version {
            file: "the collection".to_owned(),
            found: version as u32,
            oldest: oldest as u32,
            newest: newest as u32,
        });
    }
    Ok(whole(&[low, high]))
}

/// The numbers of the first file of a collection.
pub fn format_numbers(version: u64, collection: u128) -> [u64; 3] {
    let [low, high] = halves(collection);
    [version, low, high]
}
