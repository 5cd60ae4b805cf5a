//! The bytes of an index file: header, sections of rows, table, checksums. Knows no graph and no metric.
//!
//! `FORMAT.md` gives every byte; the code follows it field by field. Written once, in order; read through [`Map`].

pub mod blocks;
pub mod map;
pub mod shape;

use std::path::Path;
use std::sync::Arc;

use self::blocks::{Blocks, checksum};
use self::map::Map;
use self::shape::Shape;
use crate::error::{Damage, Error, Read, Result};
use crate::fs;

const MAGIC: [u8; 8] = [0x8f, b'O', b'S', b'L', b'\r', b'\n', 0x1a, b'\n'];
const OLDEST: u32 = 3;
const NEWEST: u32 = 3;
const PAGE: usize = 4096;
const ENTRY: usize = 48;
const MAX_SECTIONS: usize = 256;

/// A section to be written: its kind, its number among its kind, and its rows.
pub struct Section<'a> {
    /// What it holds; names are those of `FORMAT.md`.
    pub kind: u32,
    /// Distinguishes sections of one kind.
    pub number: u32,
    shape: Shape,
    blocks: Box<dyn Fn(usize) -> Read<&'a [u8]> + 'a>,
}

impl<'a> Section<'a> {
    /// A section whose rows lie as `shape` says; `blocks` gives the bytes of each block, and of the last those up to
    /// the end of the last row.
    pub fn new(
        kind: u32,
        number: u32,
        shape: Shape,
        blocks: impl Fn(usize) -> Read<&'a [u8]> + 'a,
    ) -> Self {
        Section {
            kind,
            number,
            shape,
            blocks: Box::new(blocks),
        }
    }

    fn salt(&self) -> [u8; 8] {
        salt(self.kind, self.number)
    }
}

fn salt(kind: u32, number: u32) -> [u8; 8] {
    let mut salt = [0; 8];
    salt[..4].copy_from_slice(&kind.to_le_bytes());
    salt[4..].copy_from_slice(&number.to_le_bytes());
    salt
}

/// Writes a whole file into `sink`, in order, and returns the header page that belongs at its start.
///
/// # Errors
/// What the sink or a damaged source reports.
fn write(
    sections: &[Section<'_>],
    check: &dyn Fn() -> Result<()>,
    sink: &mut dyn FnMut(&[u8]) -> Result<()>,
) -> Result<Vec<u8>> {
    let zeros = [0_u8; PAGE];
    sink(&zeros)?;
    let mut offset = PAGE;
    let mut table = Vec::with_capacity(sections.len() * ENTRY);
    let mut checksums = Vec::new();
    for section in sections {
        let shape = section.shape;
        for field in [section.kind, section.number] {
            table.extend(field.to_le_bytes());
        }
        for field in [offset, shape.rows] {
            table.extend((field as u64).to_le_bytes());
        }
        for field in [
            shape.width as u32,
            shape.stride as u32,
            shape.element as u32,
            shape.shift,
        ] {
            table.extend(field.to_le_bytes());
        }
        table.extend((checksums.len() as u64 / 4).to_le_bytes());
        for index in 0..shape.blocks() {
            check()?;
            let bytes = (section.blocks)(index)?;
            checksums.extend(checksum(section.salt(), index as u64, bytes).to_le_bytes());
            sink(bytes)?;
        }
        let end = (offset + shape.bytes()).next_multiple_of(PAGE);
        sink(&zeros[..end - offset - shape.bytes()])?;
        offset = end;
    }
    sink(&table)?;
    sink(&checksums)?;
    let root = blake3::Hasher::new()
        .update(&table)
        .update(&checksums)
        .finalize();

    let mut header = Vec::with_capacity(PAGE);
    header.extend(MAGIC);
    header.extend(NEWEST.to_le_bytes());
    header.extend((sections.len() as u32).to_le_bytes());
    header.extend((offset as u64).to_le_bytes());
    header.extend(((offset + table.len() + checksums.len()) as u64).to_le_bytes());
    header.extend(root.as_bytes());
    header.resize(PAGE - 4, 0);
    header.extend(crc32c::crc32c(&header).to_le_bytes());
    Ok(header)
}

/// Writes an index file, asking `check` once a block whether to go on: complete and synced under another name first, then renamed.
///
/// # Errors
/// [`Error::Io`]; the target is then as it was.
pub fn save(path: &Path, sections: &[Section<'_>], check: &dyn Fn() -> Result<()>) -> Result<()> {
    fs::replace(path, &mut |file| {
        let header = write(sections, check, &mut |bytes| file.append(bytes))?;
        file.write_start(&header)
    })
}

/// The bytes that [`save`] would write.
///
/// # Errors
/// [`Error::Corrupt`] if the sections come from a damaged file.
pub fn to_bytes(sections: &[Section<'_>], check: &dyn Fn() -> Result<()>) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let header = write(sections, check, &mut |more| {
        bytes.extend_from_slice(more);
        Ok(())
    })?;
    bytes[..PAGE].copy_from_slice(&header);
    Ok(bytes)
}

/// An open file whose header, table and checksums are verified.
pub struct Reader {
    map: Map,
    sections: Vec<(u32, u32, Arc<Blocks>)>,
    end: usize,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl Reader {
    /// Checks everything but the blocks of the sections.
    ///
    /// # Errors
    /// [`Error::Corrupt`] or [`Error::Version`].
    pub fn new(map: Map) -> Result<Self> {
        let bytes = map.bytes();
        let damage = |section: &str, offset: usize, problem: &str| {
            Error::from(Damage {
                file: map.name().to_owned(),
                section: section.to_owned(),
                offset: offset as u64,
                problem: problem.to_owned(),
            })
        };
        if bytes.len() < PAGE {
            return Err(damage(
                "header",
                bytes.len(),
                "the file ends inside its header",
            ));
        }
        if bytes[..8] != MAGIC {
            return Err(damage(
                "header",
                0,
                "this is no index file of Osler, or its first bytes are damaged",
            ));
        }
        if crc32c::crc32c(&bytes[..PAGE - 4]) != u32::from_le_bytes(number(bytes, PAGE - 4)) {
            return Err(damage(
                "header",
                0,
                "the checksum of the header does not match",
            ));
        }
        let version = u32::from_le_bytes(number(bytes, 8));
        if !(OLDEST..=NEWEST).contains(&version) {
            return Err(Error::Version {
                file: map.name().to_owned(),
                found: version,
                oldest: OLDEST,
                newest: NEWEST,
            });
        }
        let count = u32::from_le_bytes(number(bytes, 12)) as usize;
        let table_at = u64::from_le_bytes(number(bytes, 16)) as usize;
        let length = u64::from_le_bytes(number(bytes, 24));
        if length != bytes.len() as u64 {
            let problem = format!(
                "the file has {} bytes where its header says {length}",
                bytes.len()
            );
            return Err(damage("header", bytes.len().min(length as usize), &problem));
        }
        let checksums_at = table_at.saturating_add(count * ENTRY);
        if count > MAX_SECTIONS
            || table_at < PAGE
            || checksums_at > bytes.len()
            || !(bytes.len() - checksums_at).is_multiple_of(4)
        {
            return Err(damage(
                "table",
                table_at,
                "the section table lies outside the file",
            ));
        }
        if blake3::hash(&bytes[table_at..]).as_bytes() != &number::<32>(bytes, 32) {
            return Err(damage(
                "table",
                table_at,
                "the hash of the table and the checksums does not match",
            ));
        }
        let mut sections = Vec::with_capacity(count);
        let mut expected = PAGE;
        let mut next_checksum = checksums_at;
        for i in 0..count {
            let entry = &bytes[table_at + i * ENTRY..][..ENTRY];
            let field = |at: usize| u32::from_le_bytes(number(entry, at)) as usize;
            let (kind, which) = (field(0) as u32, field(4) as u32);
            let offset = u64::from_le_bytes(number(entry, 8)) as usize;
            let rows = u64::from_le_bytes(number(entry, 16)) as usize;
            let shape = Shape {
                rows,
                width: field(24),
                stride: field(28),
                element: field(32),
                shift: field(36) as u32,
            };
            let first = u64::from_le_bytes(number(entry, 40)) as usize;
            let fits = shape.check()
                && offset == expected
                && table_at
                    .checked_sub(expected)
                    .is_some_and(|room| shape.bytes() <= room)
                && first
                    .checked_mul(4)
                    .is_some_and(|f| checksums_at + f == next_checksum)
                && shape.blocks() <= (bytes.len() - next_checksum) / 4;
            if !fits {
                return Err(damage(
                    "table",
                    table_at + i * ENTRY,
                    "a section overlaps another or lies outside the file",
                ));
            }
            let checksums = bytes[next_checksum..next_checksum + 4 * shape.blocks()]
                .chunks_exact(4)
                .map(|four| u32::from_le_bytes(number(four, 0)))
                .collect::<Vec<_>>();
            next_checksum += 4 * checksums.len();
            expected = (offset + shape.bytes()).next_multiple_of(PAGE);
            let name = format!("{}/{which}", section_name(kind));
            sections.push((
                kind,
                which,
                Arc::new(Blocks::new(
                    map.clone(),
                    name,
                    salt(kind, which),
                    offset,
                    shape,
                    checksums,
                )),
            ));
        }
        if expected != table_at || next_checksum != bytes.len() {
            return Err(damage(
                "table",
                table_at,
                "bytes of the file belong to no section",
            ));
        }
        Ok(Reader {
            map,
            sections,
            end: table_at,
        })
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
        Error::from(Damage {
            file: self.map.name().to_owned(),
            section: section_name(kind).to_owned(),
            offset: 0,
            problem: problem.to_owned(),
        })
    }

    /// Reads every byte again and returns all damage, in the order of the file.
    ///
    /// # Errors
    /// What `check` returns, which is asked once a block.
    pub fn verify(&self, check: &dyn Fn() -> Result<()>) -> Result<Vec<Damage>> {
        let mut findings = Vec::new();
        for (i, (_, _, blocks)) in self.sections.iter().enumerate() {
            for index in 0..blocks.count() {
                check()?;
                if let Err(damage) = blocks.verify(index) {
                    findings.push(*damage);
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
        Ok(findings)
    }

    /// Whether the file is mapped rather than read into memory.
    pub fn is_mapped(&self) -> bool {
        self.map.is_mapped()
    }
}

/// Kinds of sections, as in `FORMAT.md`.
pub mod kind {
    /// Parameters and counts.
    pub const SETTINGS: u32 = 1;
    /// Full vectors.
    pub const VECTORS: u32 = 2;
    /// Keys, row by row.
    pub const KEYS: u32 = 3;
    /// Blocks of the graph's nodes, a section a size.
    pub const NODES: u32 = 4;
    /// The row of each node, a section a size.
    pub const NODE_ROWS: u32 = 5;
    /// The node of each row.
    pub const NODE_OF: u32 = 6;
    /// Blocks that walks begin with.
    pub const ROOTS: u32 = 7;
    /// Coordinates that turn inner products into distances.
    pub const LIFTS: u32 = 8;
    /// Measured recall.
    pub const CALIBRATION: u32 = 9;
    /// Centre and unit of the graph's frame.
    pub const FRAME: u32 = 10;
    /// What training a quantizer made.
    pub const QUANTIZER: u32 = 11;
    /// Blocks of small codes.
    pub const CODES: u32 = 12;
    /// Fronts of the graph's nodes where they lie apart from the blocks, a section a size.
    pub const FRONTS: u32 = 13;
}

fn section_name(kind: u32) -> &'static str {
    match kind {
        kind::SETTINGS => "settings",
        kind::VECTORS => "vectors",
        kind::KEYS => "keys",
        kind::NODES => "nodes",
        kind::NODE_ROWS => "node-rows",
        kind::NODE_OF => "node-of",
        kind::ROOTS => "roots",
        kind::LIFTS => "lifts",
        kind::CALIBRATION => "calibration",
        kind::FRAME => "frame",
        kind::QUANTIZER => "quantizer",
        kind::CODES => "codes",
        kind::FRONTS => "fronts",
        _ => "unknown",
    }
}
