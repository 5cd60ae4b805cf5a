//! Arithmetic on slices: inner products, squared distances, conversions.
//!
//! Every function is safe: it checks lengths once and calls the kernel of the best instruction set
//! that the CPU has, found once (see [`level`]). Every `f32`, `f16` and `i8` kernel returns the same
//! bits at every level: sums are kept in 32 lanes, terms are added by fused multiply-add, and the
//! lanes are added up in one fixed order. Values that are not numbers stay so, with no promise about
//! their payload.
//!
//! ```
//! let (a, b) = ([1.0f32, 2.0, 3.0], [4.0f32, 5.0, 6.0]);
//! assert_eq!(osler_kernels::dot(&a, &b), 32.0);
//! ```

// This crate exists to hold vendor intrinsics; no other may contain `unsafe` of this kind.
#![allow(unsafe_code)]
// Loops over constant small indices become registers only if written as such.
#![allow(clippy::needless_range_loop)]

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(test)]
mod agree;
mod codes;
mod cpu;
mod hadamard;
mod kernels;
mod lanes;
mod memory;
mod near;
mod neighbours;
mod scalar;
mod sliver;
mod table;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use cpu::{Level, level, levels};
pub use kernels::{
    Kernels, MAX_I8_LEN, MAX_PLANES_LEN, all_finite, all_finite_f16, columns, dot, dot_f16, dot_i8,
    dot_i16_i8, dot_planes, dot_tile, dot_tile_f16, dot4, dot4_f16, hadamard, l2, l2_4, l2_4_f16,
    l2_f16, l2_tile, l2_tile_f16, neighbours, position_of_max, residual, scan, sliver_reach,
    sliver_sums, sum_of_squares, tables, to_f16, to_f32, to_i16,
};
pub use memory::prefetch;
pub use near::{
    MAX_PANEL_DIM, MAX_PANEL_ROWS, PANEL, PANEL_DIM_STEP, Panels, dot4_i8, nearest_among,
    nearest_of, nearest_within,
};
pub use neighbours::{CODE_DIMS, PLANE, Residual, TableScale, Terms};
pub use sliver::SLIVER;
