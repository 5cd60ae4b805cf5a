//! The form in which rows are kept: as which codes, where their full vectors lie, and what fits a memory budget.
//!
//! Pure values; touches nothing. Sizes are those of the tables, counted in bytes a row.

use crate::chunks::CHUNK_BYTES;
use crate::error::{Error, Result};
use crate::file::map::Line;
use crate::graph::node::{Blocks, Layout, SIZES};
use crate::metric::Metric;
use crate::quantize::Method;

/// What rows are searched by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codes {
    /// A graph, over full vectors of 32-bit floats.
    F32,
    /// A graph, over full vectors of 16-bit floats, rounded to nearest even.
    F16,
    /// A graph of small blocks with rows of 8 bits a number; full vectors are 32-bit floats.
    Sq8,
    /// The same with rows of 5 bits a number.
    Sq5,
    /// A scan of small codes; full vectors are 32-bit floats.
    Small(Method),
}

impl Codes {
    /// The codes of a public name.
    ///
    /// ```
    /// use osler_core::form::Codes;
    /// assert_eq!(Codes::parse("pq", 384).unwrap().name(), "pq:192x4");
    /// assert!(Codes::parse("f8", 384).is_err());
    /// ```
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str, dim: usize) -> Result<Self> {
        match name {
            "f32" => Ok(Codes::F32),
            "f16" => Ok(Codes::F16),
            "sq8" => Ok(Codes::Sq8),
            "sq5" => Ok(Codes::Sq5),
            _ => match Method::parse(name, dim) {
                Ok(method) => Ok(Codes::Small(method)),
                Err(_) => Err(Error::input(format!(
                    "codes is {name:?}; it can be \"auto\", \"f32\", \"f16\", \"sq8\", \"sq5\", \"pq\", \"pq:PARTSxBITS\" with 1 to \
                     {dim} parts of 4 or 8 bits, \"rabitq\" or \"rabitq:BITS\" with 1 to 8 bits"
                ))),
            },
        }
    }

    /// The public name, with all parameters.
    pub fn name(self) -> String {
        match self {
            Codes::F32 => "f32".to_owned(),
            Codes::F16 => "f16".to_owned(),
            Codes::Sq8 => "sq8".to_owned(),
            Codes::Sq5 => "sq5".to_owned(),
            Codes::Small(method) => method.name(),
        }
    }

    /// Bytes of one number of a full vector.
    pub fn bytes(self) -> usize {
        match self {
            Codes::F16 => 2,
            Codes::F32 | Codes::Sq8 | Codes::Sq5 | Codes::Small(_) => 4,
        }
    }

    /// Bytes of chunks that are not full yet, at most: those of vectors, of blocks of both sizes, and of the short tables.
    fn begun(self) -> u64 {
        match self {
            Codes::Small(_) => 0,
            Codes::F32 | Codes::F16 => 4 * CHUNK_BYTES as u64,
            // Fronts too.
            Codes::Sq8 | Codes::Sq5 => 6 * CHUNK_BYTES as u64,
        }
    }

    /// The small codes, if rows are searched by them.
    pub fn method(self) -> Option<Method> {
        match self {
            Codes::Small(method) => Some(method),
            _ => None,
        }
    }

    /// What the blocks of a graph are made of, if rows are searched by one.
    pub fn blocks(self) -> Option<Blocks> {
        match self {
            Codes::F32 | Codes::F16 => Some(Blocks::Fused),
            Codes::Sq8 => Some(Blocks::Single8),
            Codes::Sq5 => Some(Blocks::Single5),
            Codes::Small(_) => None,
        }
    }
}

/// Where full vectors are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// In memory.
    Ram,
    /// In a file, from which they are read when they are scored.
    Disk,
    /// Nowhere, once there is something else to score rows by.
    Nowhere,
}

impl Keep {
    /// All places with their public names.
    pub const NAMES: [(&'static str, Keep); 3] = [
        ("ram", Keep::Ram),
        ("disk", Keep::Disk),
        ("none", Keep::Nowhere),
    ];

    /// The place of a public name.
    ///
    /// # Errors
    /// [`Error::Input`] for any other name.
    pub fn parse(name: &str) -> Result<Self> {
        let found = Self::NAMES.iter().find(|(n, _)| *n == name);
        found.map(|&(_, keep)| keep).ok_or_else(|| {
            Error::input(format!(
                "keep_vectors is {name:?}; it can be \"ram\", \"disk\" or \"none\""
            ))
        })
    }

    /// The public name.
    pub fn name(self) -> &'static str {
        match self {
            Keep::Ram => "ram",
            Keep::Disk => "disk",
            Keep::Nowhere => "none",
        }
    }
}

/// What a user asks of the form of an index.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Name of the codes.
    pub codes: &'a str,
    /// Where full vectors are kept; None: wherever the budget leaves room.
    pub keep: Option<&'a str>,
    /// Bytes that may be resident; None: any number.
    pub memory: Option<u64>,
}

/// Bytes of a key, and of its place in the table of keys.
const KEY: usize = 8 + 16;

/// Bytes that a row takes in memory at most: how many of a graph's blocks are large is known when it is built, and a budget
/// must hold before.
pub fn resident(codes: Codes, keep: Keep, metric: Metric, dim: usize) -> usize {
    let full = match keep {
        Keep::Ram => (dim * codes.bytes()).next_multiple_of(Line::BYTES),
        Keep::Disk | Keep::Nowhere => 0,
    };
    let lift = usize::from(metric == Metric::Dot);
    let searched = match codes {
        Codes::Small(method) => method.bytes(metric, dim),
        _ => {
            let padded = (dim + lift).next_multiple_of(64);
            let blocks = codes.blocks().unwrap_or(Blocks::Fused);
            let layout = Layout::new(blocks, padded, SIZES - 1);
            let front = if layout.is_fused() {
                0
            } else {
                4 * layout.front()
            };
            // Names and rows of nodes beside their blocks.
            8 + front.next_multiple_of(Line::BYTES)
                + (4 * layout.words()).next_multiple_of(Line::BYTES)
        }
    };
    full + searched + KEY + 4 * lift
}

/// The forms that "auto" tries, the fastest and most exact first.
fn forms(dim: usize) -> Vec<(Codes, Keep)> {
    let pq = |parts: usize| Codes::Small(Method::Pq { parts, bits: 4 });
    let rabitq = |bits| Codes::Small(Method::Rabitq { bits });
    vec![
        (Codes::F32, Keep::Ram),
        (Codes::F16, Keep::Ram),
        (Codes::F16, Keep::Disk),
        (Codes::F16, Keep::Nowhere),
        (Codes::Sq8, Keep::Ram),
        (Codes::Sq5, Keep::Ram),
        // A graph whose few finds are read from a file is faster than a scan of codes with vectors in memory.
        (Codes::Sq8, Keep::Disk),
        (Codes::Sq8, Keep::Nowhere),
        (Codes::Sq5, Keep::Disk),
        (rabitq(4), Keep::Ram),
        (rabitq(4), Keep::Disk),
        (pq(dim.div_ceil(2)), Keep::Disk),
        (rabitq(1), Keep::Disk),
        (pq(dim.div_ceil(4)), Keep::Disk),
        (rabitq(8), Keep::Nowhere),
        (rabitq(4), Keep::Nowhere),
        (pq(dim.div_ceil(2)), Keep::Nowhere),
    ]
}

impl Wanted<'_> {
    /// The form of an index of `rows` vectors: what was asked for, or for "auto" the first that fits the budget.
    ///
    /// # Errors
    /// [`Error::Input`] for names that are unknown, and where nothing fits.
    pub fn choose(self, metric: Metric, dim: usize, rows: usize) -> Result<(Codes, Keep)> {
        let keep = self.keep.map(Keep::parse).transpose()?;
        let named = (self.codes != "auto")
            .then(|| Codes::parse(self.codes, dim))
            .transpose()?;
        let need = |(codes, keep): (Codes, Keep)| {
            let all = (resident(codes, keep, metric, dim) as u64).saturating_mul(rows as u64);
            all.saturating_add(codes.begun())
        };
        let Some(memory) = self.memory else {
            return Ok((named.unwrap_or(Codes::F32), keep.unwrap_or(Keep::Ram)));
        };
        let fits = |form: &(Codes, Keep)| need(*form) <= memory;
        let tried: Vec<(Codes, Keep)> = match (named, keep) {
            (Some(codes), Some(keep)) => vec![(codes, keep)],
            (Some(codes), None) => vec![(codes, Keep::Ram), (codes, Keep::Disk)],
            // Exactness is not given up unasked: without full vectors recall has a limit.
            (None, None) => forms(dim)
                .into_iter()
                .filter(|form| form.1 != Keep::Nowhere)
                .collect(),
            (None, Some(Keep::Disk)) => {
                let mut all = vec![(Codes::F32, Keep::Disk)];
                all.extend(forms(dim).into_iter().filter(|form| form.1 == Keep::Disk));
                all
            }
            (None, Some(keep)) => forms(dim)
                .into_iter()
                .filter(|form| form.1 == keep)
                .collect(),
        };
        if let Some(form) = tried.iter().find(|form| fits(form)) {
            return Ok(*form);
        }
        let least = tried.iter().map(|&form| need(form)).min().unwrap_or(0);
        let what = match named {
            Some(codes) => format!(
                "with codes {:?} and keep_vectors {:?}",
                codes.name(),
                tried[tried.len() - 1].1.name()
            ),
            None => "in the smallest form that \"auto\" may choose".to_owned(),
        };
        let advice = match (named, keep) {
            (Some(_), _) => "allow more, or let codes=\"auto\" choose",
            (None, Some(Keep::Ram)) => "allow more, or keep_vectors=\"disk\"",
            _ => "allow more, or index fewer vectors",
        };
        Err(Error::input(format!(
            "memory is {memory} bytes, but {rows} vectors of {dim} numbers need {least} {what}; {advice}"
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(memory: Option<u64>, keep: Option<&str>) -> Result<(Codes, Keep)> {
        let wanted = Wanted {
            codes: "auto",
            keep,
            memory,
        };
        wanted.choose(Metric::Cosine, 384, 100_000)
    }

    #[test]
    fn a_smaller_budget_never_chooses_a_larger_form_and_all_chosen_forms_fit() {
        let mut last = u64::MAX;
        for mebibytes in (4..500).rev() {
            let memory = mebibytes << 20;
            let Ok((codes, keep)) = chosen(Some(memory), None) else {
                continue;
            };
            let need = resident(codes, keep, Metric::Cosine, 384) as u64 * 100_000;
            assert!(need <= memory && need <= last, "{codes:?} {keep:?}");
            last = need;
        }
        assert!(last < 20 << 20);
    }

    #[test]
    fn without_a_budget_nothing_is_given_up() {
        assert_eq!(chosen(None, None).unwrap(), (Codes::F32, Keep::Ram));
        assert_eq!(
            chosen(None, Some("none")).unwrap(),
            (Codes::F32, Keep::Nowhere)
        );
    }

    #[test]
    fn a_place_that_was_asked_for_is_kept() {
        for (name, keep) in Keep::NAMES {
            for mebibytes in [30, 100, 200, 500] {
                if let Ok(form) = chosen(Some(mebibytes << 20), Some(name)) {
                    assert_eq!(form.1, keep);
                }
            }
        }
        let refused = chosen(Some(1 << 20), Some("ram")).unwrap_err().to_string();
        assert!(
            refused.contains("need") && refused.contains("disk"),
            "{refused}"
        );
    }
}
