//! Opens a file of sections: verifies its header and table, and leaves blocks to whoever touches them.

use std::sync::Arc;

use super::blocks::Blocks;
use super::header::{BLOCKS, CHECKSUM, FEATURES, ID, LENGTH, ROOT, SECTIONS, TABLE, VERSION};
use super::map::Map;
use super::shape::Shape;
use super::sums::{PIECE, Salt, Sums};
use super::{ENTRY, MAGIC, MAX_SECTIONS, NEWEST, OLDEST, PAGE, kind};
use crate::error::{Damage, Error, Result};

/// An open file whose header and table are verified.
pub struct Reader {
    map: Map,
    pub(super) sections: Vec<(u32, u32, Arc<Blocks>)>,
    sums: Arc<Sums>,
    root: [u8; 32],
    end: usize,
}

/// What the header says of the rest.
struct Outline {
    sections: usize,
    table: usize,
    sums: usize,
    blocks: usize,
    id: [u8; 16],
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(number(bytes, at))
}

fn short(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(number(bytes, at))
}

fn damage(map: &Map, section: &str, offset: usize, problem: &str) -> Error {
    Error::from(Damage {
        file: map.name().to_owned(),
        section: section.to_owned(),
        offset: offset as u64,
        problem: problem.to_owned(),
    })
}

/// Checks the header page, the length of the file, and the hash of the table with the checksums of the checksums.
fn outline(map: &Map) -> Result<Outline> {
    let bytes = map.bytes();
    let of_header = |offset, problem: &str| Err(damage(map, "header", offset, problem));
    if bytes.len() < PAGE {
        return of_header(bytes.len(), "the file ends inside its header");
    }
    if bytes[..8] != MAGIC {
        return of_header(
            0,
            "this is no file of Osler, or its first bytes are damaged",
        );
    }
    if crc32c::crc32c(&bytes[..CHECKSUM]) != short(bytes, CHECKSUM) {
        return of_header(0, "the checksum of the header does not match");
    }
    let version = short(bytes, VERSION);
    if !(OLDEST..=NEWEST).contains(&version) {
        return Err(Error::Version {
            file: map.name().to_owned(),
            found: version,
            oldest: OLDEST,
            newest: NEWEST,
        });
    }
    let features = long(bytes, FEATURES);
    if features != 0 {
        return Err(Error::Feature {
            file: map.name().to_owned(),
            version,
            features,
        });
    }
    for (start, end) in [(FEATURES + 8, ID), (BLOCKS + 8, CHECKSUM)] {
        if let Some(at) = bytes[start..end].iter().position(|&byte| byte != 0) {
            return of_header(start + at, "a byte that has no meaning is not zero");
        }
    }
    let length = long(bytes, LENGTH);
    if length != bytes.len() as u64 {
        let problem = format!(
            "the file has {} bytes where its header says {length}",
            bytes.len()
        );
        return of_header(bytes.len().min(length as usize), &problem);
    }
    let (sections, table) = (short(bytes, SECTIONS) as usize, long(bytes, TABLE) as usize);
    let blocks = long(bytes, BLOCKS) as usize;
    let sums = table.saturating_add(sections * ENTRY + 4 * blocks.div_ceil(PIECE));
    let fits = sections <= MAX_SECTIONS && table >= PAGE && blocks < 1 << 40;
    if !fits || sums.saturating_add(4 * blocks) != bytes.len() {
        return Err(damage(map, "table", table, "it lies outside the file"));
    }
    if super::root(&number(bytes, ID), &bytes[table..sums]) != number::<32>(bytes, ROOT) {
        return Err(damage(map, "table", table, "its hash does not match"));
    }
    Ok(Outline {
        sections,
        table,
        sums,
        blocks,
        id: number(bytes, ID),
    })
}

impl Reader {
    /// Checks everything but the blocks of the sections and the list of their checksums.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Version`] or [`Error::Feature`].
    pub fn new(map: Map) -> Result<Self> {
        let outline = outline(&map)?;
        let bytes = map.bytes();
        let root = number(bytes, ROOT);
        let pieces = bytes[outline.table + outline.sections * ENTRY..outline.sums]
            .chunks_exact(4)
            .map(|four| short(four, 0))
            .collect();
        let sums = Arc::new(Sums::stored(
            map.clone(),
            outline.id,
            outline.sums,
            outline.blocks,
            pieces,
        ));
        let mut sections = Vec::with_capacity(outline.sections);
        let (mut expected, mut next) = (PAGE, 0);
        for i in 0..outline.sections {
            let at = outline.table + i * ENTRY;
            let entry = &bytes[at..at + ENTRY];
            let field = |at: usize| short(entry, at) as usize;
            let (of, which) = (field(0) as u32, field(4) as u32);
            let offset = long(entry, 8) as usize;
            let shape = Shape {
                rows: long(entry, 16) as usize,
                width: field(24),
                stride: field(28),
                element: field(32),
                shift: field(36) as u32,
            };
            let fits = shape.check()
                && offset == expected
                && outline
                    .table
                    .checked_sub(expected)
                    .is_some_and(|room| shape.bytes() <= room)
                && long(entry, 40) == next as u64
                && shape.blocks() <= outline.blocks - next;
            if kind::name(of) == kind::UNKNOWN {
                return Err(damage(&map, "table", at, "a section has an unknown kind"));
            }
            if sections.iter().any(|&(a, b, _)| (a, b) == (of, which)) {
                return Err(damage(&map, "table", at, "a section is there twice"));
            }
            if !fits {
                let problem = "a section overlaps another or lies outside the file";
                return Err(damage(&map, "table", at, problem));
            }
            let salt = Salt {
                id: outline.id,
                kind: of,
                number: which,
            };
            let name = format!("{}/{which}", kind::name(of));
            let blocks = Blocks::new(map.clone(), name, salt, offset, shape, sums.clone(), next);
            sections.push((of, which, Arc::new(blocks)));
            next += shape.blocks();
            expected = (offset + shape.bytes()).next_multiple_of(PAGE);
        }
        if expected != outline.table || next != outline.blocks {
            let problem = "bytes of the file belong to no section";
            return Err(damage(&map, "table", outline.table, problem));
        }
        Ok(Reader {
            map,
            sections,
            sums,
            root,
            end: outline.table,
        })
    }

    /// The hash in the header, which stands for the whole file.
    pub fn root(&self) -> [u8; 32] {
        self.root
    }

    /// Bytes of the file.
    pub fn length(&self) -> u64 {
        self.map.bytes().len() as u64
    }

    /// A section, of which nothing is read yet.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it is missing or its elements have not `element` bytes.
    pub fn section(&self, kind: u32, number: u32, element: usize) -> Result<Arc<Blocks>> {
        let found = self.sections.iter().find(|s| (s.0, s.1) == (kind, number));
        match found {
            Some((_, _, blocks)) if blocks.shape().element == element => Ok(blocks.clone()),
            Some(_) => Err(self.damage(kind, "its elements have the wrong size")),
            None => Err(self.damage(kind, "it is missing")),
        }
    }

    /// The same file with all sections but those of one kind copied into memory.
    pub fn in_memory_but(self, kind: u32) -> Self {
        let sections = self.sections.into_iter().map(|(of, number, blocks)| {
            let blocks = if of == kind {
                blocks
            } else {
                Arc::new(blocks.in_memory())
            };
            (of, number, blocks)
        });
        Reader {
            sections: sections.collect(),
            ..self
        }
    }

    /// How many sections of a kind there are.
    pub fn count(&self, kind: u32) -> u32 {
        self.sections.iter().filter(|s| s.0 == kind).count() as u32
    }

    /// Damage of a section as a whole.
    pub fn damage(&self, kind: u32, problem: &str) -> Error {
        damage(&self.map, kind::name(kind), 0, problem)
    }

    /// Reads every byte again and returns all damage, in the order of the file.
    ///
    /// # Errors
    /// What `check` returns, which is asked once a block.
    pub fn verify(&self, check: &dyn Fn() -> Result<()>) -> Result<Vec<Damage>> {
        let mut findings = Vec::new();
        match outline(&self.map) {
            Err(Error::Corrupt(damage)) => findings.push(*damage),
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        for (i, (_, _, blocks)) in self.sections.iter().enumerate() {
            for index in 0..blocks.count() {
                check()?;
                match blocks.verify(index) {
                    // Damage of the list is found once, below.
                    Err(damage) if damage.section != "checksums" => findings.push(*damage),
                    _ => {}
                }
            }
            let start = blocks.offset() + blocks.shape().bytes();
            let end = self
                .sections
                .get(i + 1)
                .map_or(self.end, |next| next.2.offset());
            if let Some(at) = self.map.bytes()[start..end].iter().position(|&b| b != 0) {
                findings.push(*blocks.damage((start + at) as u64, "padding is not zero"));
            }
        }
        for piece in 0..self.sums.pieces() {
            check()?;
            findings.extend(self.sums.verify(piece).err().map(|damage| *damage));
        }
        Ok(findings)
    }

    /// Whether the file is mapped rather than read into memory.
    pub fn is_mapped(&self) -> bool {
        self.map.is_mapped()
    }
}
