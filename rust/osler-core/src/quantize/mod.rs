//! Small codes in place of vectors, and what they are made with.
//!
//! Arithmetic on slices in memory; knows no file, no graph and no key.

pub mod rotation;
