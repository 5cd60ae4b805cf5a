//! The hierarchical navigable small-world graph: levels, entry point, and `validate`, which checks every invariant.
//!
//! Malkov and Yashunin, 2016 (arXiv 1603.09320). Holds slots and links only; vectors belong to the index. A level-0
//! slot is a row; a slot of an upper level names its row and its slot one level below.

pub mod bytes;
pub mod edges;
pub mod insert;
pub mod partition;
pub mod prune;
pub mod repair;
pub mod search;

use crate::chunks::Rows;
use crate::error::{Damage, Read};
use crate::random::Stream;

/// Ends a list of links.
pub const NONE: u32 = u32::MAX;

/// Links of an upper-level slot; level 0 has twice as many. The paper's M, and its M_max0 = 2 M (section 4).
pub const M: usize = 16;

/// Width of the beam that finds an inserted row's neighbours, the paper's efConstruction.
pub const EF_CONSTRUCTION: usize = 128;

/// Levels above the bottom: as many as 64 random bits can open.
const MAX_LEVELS: usize = 64 / M.ilog2() as usize;

/// Links change often, so a writer copies them in smaller chunks.
pub const LINK_CHUNK_BYTES: usize = 16 << 10;

const BROKEN_LINKS: &str = "the links of a slot are no list of other slots";

/// Slots with links, at one level.
pub trait Layer: Sync {
    /// Links of a slot, ended by [`NONE`] where there are fewer than fit.
    ///
    /// # Errors
    /// The damage, where they lie in a damaged block of a file.
    fn links(&self, slot: u32) -> Read<&[u32]>;
    /// The row of a slot.
    fn row(&self, slot: u32) -> u32;
    /// Slots of the level.
    fn slots(&self) -> usize;
    /// Asks the processor to fetch the links of a slot.
    fn prefetch(&self, slot: u32);
    /// Says that the links of a slot name one that does not exist.
    fn broken(&self, slot: u32) -> Box<Damage>;
}

/// The bottom level, where every row has a slot.
pub struct Base<'a>(&'a Rows<u32>);

impl Layer for Base<'_> {
    #[inline(always)]
    fn links(&self, slot: u32) -> Read<&[u32]> {
        self.0.row(slot as usize)
    }

    #[inline(always)]
    fn row(&self, slot: u32) -> u32 {
        slot
    }

    fn slots(&self) -> usize {
        self.0.len()
    }

    #[inline(always)]
    fn prefetch(&self, slot: u32) {
        self.0.prefetch(slot as usize);
    }

    #[cold]
    fn broken(&self, slot: u32) -> Box<Damage> {
        self.0.damage(slot as usize, BROKEN_LINKS)
    }
}

/// A level above the bottom.
#[derive(Clone)]
pub struct Level {
    rows: Vec<u32>,
    down: Vec<u32>,
    links: Rows<u32>,
}

impl Default for Level {
    fn default() -> Self {
        Level {
            rows: Vec::new(),
            down: Vec::new(),
            links: Rows::with_chunk_bytes(M, LINK_CHUNK_BYTES),
        }
    }
}

impl Layer for Level {
    #[inline(always)]
    fn links(&self, slot: u32) -> Read<&[u32]> {
        self.links.row(slot as usize)
    }

    #[inline(always)]
    fn row(&self, slot: u32) -> u32 {
        self.rows[slot as usize]
    }

    fn slots(&self) -> usize {
        self.rows.len()
    }

    fn prefetch(&self, slot: u32) {
        self.links.prefetch(slot as usize);
    }

    #[cold]
    fn broken(&self, slot: u32) -> Box<Damage> {
        self.links.damage(slot as usize, BROKEN_LINKS)
    }
}

/// The graph of one snapshot; cloning shares all chunks.
#[derive(Clone)]
pub struct Graph {
    base: Rows<u32>,
    levels: Vec<Level>,
    entry: u32,
    seed: u64,
}

/// The tables of a graph as they are written to a file.
pub struct Tables<'a> {
    /// Links of the bottom level.
    pub base: &'a Rows<u32>,
    /// Rows, slots below and links of each upper level, from the lowest.
    pub levels: Vec<(Rows<u32>, Rows<u32>, &'a Rows<u32>)>,
    /// Where a walk starts if there are no upper levels.
    pub entry: u32,
}

impl Graph {
    /// A graph over `rows` rows, none of which is linked yet.
    pub fn new(rows: usize, seed: u64) -> Self {
        let mut graph = Graph {
            base: Rows::with_chunk_bytes(2 * M, LINK_CHUNK_BYTES),
            levels: Vec::new(),
            entry: NONE,
            seed,
        };
        graph.grow(rows);
        graph
    }

    /// Makes room for rows that will be inserted.
    pub fn grow(&mut self, rows: usize) {
        while self.base.len() < rows {
            self.base
                .push(&[NONE; 2 * M])
                .unwrap_or_else(|_| unreachable!("the links of a file were copied on opening"));
        }
    }

    /// The graph of tables that were read from a file.
    ///
    /// # Errors
    /// What is wrong with them, in words; links are checked when they are walked.
    pub fn from_tables(
        base: Rows<u32>,
        tables: Vec<(Vec<u32>, Vec<u32>, Rows<u32>)>,
        entry: u32,
        seed: u64,
    ) -> std::result::Result<Self, &'static str> {
        if base.width() != 2 * M || tables.len() > MAX_LEVELS {
            return Err("the graph has another width or too many levels");
        }
        if base.is_empty() && !(tables.is_empty() && entry == NONE) {
            return Err("a graph without rows has an entry point");
        }
        if !base.is_empty() && entry as usize >= base.len() {
            return Err("the entry point is no row");
        }
        let mut below = base.len();
        let mut levels: Vec<Level> = Vec::with_capacity(tables.len());
        for (rows, down, links) in tables {
            let whole = !rows.is_empty()
                && rows.len() == down.len()
                && rows.len() == links.len()
                && links.width() == M;
            let inside = down.iter().all(|&slot| (slot as usize) < below);
            let matching = rows.iter().zip(&down).all(|(&row, &slot)| {
                inside
                    && levels
                        .last()
                        .map_or(row == slot, |lower| lower.rows[slot as usize] == row)
            });
            if !(whole && inside && matching) {
                return Err("an upper level names slots that do not exist below it");
            }
            below = rows.len();
            levels.push(Level { rows, down, links });
        }
        Ok(Graph {
            base,
            levels,
            entry,
            seed,
        })
    }

    /// The tables, to be written to a file.
    pub fn tables(&self) -> Tables<'_> {
        let levels = self.levels.iter();
        let levels = levels
            .map(|l| {
                (
                    Rows::from_values(&l.rows),
                    Rows::from_values(&l.down),
                    &l.links,
                )
            })
            .collect();
        Tables {
            base: &self.base,
            levels,
            entry: self.entry,
        }
    }

    /// The bottom level.
    pub fn base(&self) -> Base<'_> {
        Base(&self.base)
    }

    /// Bytes that the links take.
    pub fn bytes(&self) -> usize {
        self.base.bytes()
            + self
                .levels
                .iter()
                .map(|l| l.links.bytes() + 8 * l.rows.len())
                .sum::<usize>()
    }

    /// Rows with a slot.
    pub fn rows(&self) -> usize {
        self.base.len()
    }

    /// Rows that are in an upper level.
    pub fn upper(&self) -> &[u32] {
        self.levels.first().map_or(&[], |level| &level.rows)
    }

    /// Levels above the bottom.
    pub fn height(&self) -> usize {
        self.levels.len()
    }

    /// How many upper levels a row is in: the paper's floor(-ln(u) m_L) (Algorithm 1, line 4), which for m_L = 1 / ln M
    /// is one level for every log2 M zeros that a random number begins with. Counted, as logarithms differ by machine.
    fn height_of(&self, row: u32) -> usize {
        let zeros = Stream::new(self.seed, 1, u64::from(row))
            .next_u64()
            .leading_zeros();
        (zeros / M.ilog2()) as usize
    }

    /// Checks every invariant: links name other slots of their level, once each, without gaps, and levels agree.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn validate(&self) -> Read<()> {
        check_layer(&self.base())?;
        self.levels.iter().try_for_each(check_layer)
    }
}

fn check_layer(layer: &impl Layer) -> Read<()> {
    for slot in 0..layer.slots() as u32 {
        let links = layer.links(slot)?;
        let list = real(links);
        let sound = links[list.len()..].iter().all(|&l| l == NONE)
            && list
                .iter()
                .all(|&l| (l as usize) < layer.slots() && l != slot)
            && (1..list.len()).all(|i| !list[..i].contains(&list[i]));
        if !sound {
            return Err(layer.broken(slot));
        }
    }
    Ok(())
}

/// The links of a slot without the end marks.
#[inline(always)]
pub fn real(links: &[u32]) -> &[u32] {
    &links[..links.iter().position(|&l| l == NONE).unwrap_or(links.len())]
}
