//! Osler's engine: vectors under keys, searched exactly or through an HNSW graph, in memory or in a mapped file.
//!
//! No Python, no network, no clock, no global state. The same input and seed give the same bytes in a saved file, at
//! any number of threads and at any SIMD level. From the bottom: [`error`], [`metric`], [`random`], [`fs`]; [`file`]
//! and [`chunks`] hold bytes and rows; [`quantize`] makes small codes of rows; [`form`] says in which form rows are kept; [`vectors`], [`spool`], [`codes`], [`likeness`], [`keys`], [`select`], [`group`], [`queue`], [`scratch`] and
//! [`pool`] are the parts of a search; [`graph`] and [`exact`] are its two ways; [`calibrate`] turns a wanted recall into a width;
//! [`state`] is one snapshot, `maintain` what a writer does to it, [`stored`] its file, [`query`] a search over it, [`items`] one for items by their [`parts`] and [`means`]; [`index`] is what callers use, beside
//! [`join`] and [`picture`], which resizes what an encoder will see. `FORMAT.md` beside this crate gives every byte of a file.
//!
//! ```
//! use osler_core::{index::Index, metric::Metric, pool::Control, query::Ask, state::Params, vectors::{Codes, Keep}};
//!
//! # fn main() -> osler_core::error::Result<()> {
//! let index = Index::new(Params { dim: 2, metric: Metric::Cosine, codes: Codes::F32, keep: Keep::Ram, seed: 0 })?;
//! index.add(vec![1.0, 0.0, 0.0, 1.0, 1.0, 1.0], Some(&[7, 8, 9]), 1, &Control::default())?;
//! let mut query = vec![2.0, 0.1];
//! index.prepare(&mut query)?;
//! let ask = Ask { k: 2, recall: 0.95, ef: None, exact: false, allowed: None, limit: None, exclude: None };
//! let found = index.search(&index.snapshot(), &query, ask, 1, &Control::default())?;
//! assert_eq!(found.keys, [7, 9]);
//! # Ok(())
//! # }
//! ```

#[cfg(target_endian = "big")]
compile_error!(
    "files are little-endian and mapped as they are; a big-endian machine would need to swap what it reads"
);

pub mod calibrate;
pub mod chunks;
pub mod codes;
pub mod error;
pub mod exact;
pub mod file;
pub mod form;
pub mod fs;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
pub mod graph;
pub mod group;
pub mod hash;
pub mod index;
pub mod items;
pub mod join;
pub mod keys;
pub mod likeness;
mod maintain;
pub mod means;
mod measure;
pub mod metric;
pub mod parts;
pub mod picture;
pub mod planted;
pub mod pool;
pub mod quantize;
pub mod query;
pub mod queue;
pub mod random;
pub mod select;
pub mod spool;
pub mod state;
pub mod store;
pub mod stored;
mod tables;
pub mod vectors;
