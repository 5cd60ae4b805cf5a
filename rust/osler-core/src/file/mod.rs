//! The bytes of a file of sections: header, rows, table, checksums. Knows no graph and no metric.
//!
//! `FORMAT.md` gives every byte; the code follows it field by field. Written once, in order; read through [`map::Map`].

pub mod blocks;
pub mod kind;
pub mod map;
mod read;
pub mod shape;
pub mod sums;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod write;

pub use self::read::Reader;
pub use self::write::{Section, Written, create, save, to_bytes};

const MAGIC: [u8; 8] = [0x8f, b'O', b'S', b'L', b'\r', b'\n', 0x1a, b'\n'];
const OLDEST: u32 = 4;
const NEWEST: u32 = 4;
const PAGE: usize = 4096;
const ENTRY: usize = 48;
const MAX_SECTIONS: usize = 256;

/// The hash in a header: of the file's id, which stands for its content, and of the table with what follows it.
fn root(id: &[u8; 16], table: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    *hasher.update(id).update(table).finalize().as_bytes()
}

/// Offsets of the header's fields.
mod header {
    pub const VERSION: usize = 8;
    pub const SECTIONS: usize = 12;
    pub const TABLE: usize = 16;
    pub const LENGTH: usize = 24;
    pub const ROOT: usize = 32;
    pub const FEATURES: usize = 64;
    pub const ID: usize = 88;
    pub const BLOCKS: usize = 104;
    pub const CHECKSUM: usize = super::PAGE - 4;
}
