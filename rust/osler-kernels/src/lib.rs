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
//!
//! The rest of this page is for whoever ports the kernels to another instruction set.
//!
//! # Which kernels there are
//!
//! | kernels | who waits for them | written in |
//! |---|---|---|
//! | [`neighbours()`], [`dot_i16_i8`], [`dot4_i16_i8`] | every hop of a walk, and scans of 8-bit rows | `neighbours.rs`; look-ups and integers in each set's file |
//! | [`dot4_signs`], [`dot_fives`] | every hop of a walk over small blocks | integers in each set's file; `signs.rs` |
//! | [`dot4`], [`l2_4`], their `_f16` forms, [`dot`], [`l2`] | finds put in order by full vectors; exact search | `lanes.rs` |
//! | [`hadamard()`], [`tables`], [`to_i16`] | every query, before its walk | `hadamard.rs`, `neighbours.rs` |
//! | [`scan`], [`dot_planes`], [`dot_i8`] | every search of small codes | integers in each set's file |
//! | [`nearest_within`], [`nearest_among`], [`dot4_i8`] | the build by leaves, and pruning | `near.rs`; for x86-64 `x86_64/panels.rs` |
//! | [`residual`] | writing the blocks of a graph | `neighbours.rs` |
//! | [`dot_tile`], [`l2_tile`], their `_f16` forms | exact search of a batch; near-duplicates; training | `tile.rs` |
//! | [`sliver_reach`], [`sliver_sums`] | near-duplicates that bounds rule out | `sliver.rs` |
//! | [`columns`], [`position_of_max`] | training and coding by product quantization | `codes.rs` |
//! | [`resample_u8`], [`resample_f32`] | pictures that are made smaller before an encoder sees them | `resample.rs` |
//! | [`to_f16`], [`to_f32`], [`all_finite`], [`all_finite_f16`], [`sum_of_squares`] | vectors that come in | `lanes.rs` |
//!
//! The table is in the order of what a port gains: a set that has the first two rows has most of a search.
//!
//! # Layouts
//!
//! Vectors are plain slices of any alignment and any length, unless a line below says otherwise.
//!
//! - **Planes of neighbours** ([`neighbours()`]): 16 neighbours, one bit for each of `D` dimensions, `D` a multiple
//!   of [`CODE_DIMS`]. Four dimensions make a nibble, the first in its lowest bit. Byte `16 g + i` has nibble `g` of
//!   neighbour `i` in its low half and nibble `D / 8 + g` in its high half. So one load gives the same two groups of
//!   16 neighbours, and each half selects by one shuffle from 16 bytes of the query's table, which has group after
//!   group. Entries are at most 127: two of them add up in a byte. One or two planes make a block of 16 or 32
//!   neighbours.
//! - **Signs** ([`dot4_signs`]): one row's 1-bit code; dimension `t D / 8 + b` is bit `t` of byte `b`, so that a shift by
//!   `t` leaves the bits of neighbouring dimensions in neighbouring bytes. The rest of a 5-bit row is in `signs.rs`.
//! - **Groups of codes** ([`scan`]): 16 bytes hold one half-byte of 32 rows, row `i` in the low half of byte `i`, row
//!   `16 + i` in its high half. Entries go up to 255, so that sums are widened to 16 bits at once.
//! - **Planes of numbers** ([`dot_planes`]): bit `i % 8` of byte `i / 8` is a bit of number `i`; the plane of the
//!   highest bits comes first.
//! - **Panels** ([`Panels`]): 16 rows of `i8`, four codes of each in turn, so that 64 bytes are the same four
//!   dimensions of 16 rows: the operand of a four-way integer product (VNNI, or `sdot` of ARM). Codes have 7 bits.
//! - **Slivers** ([`SLIVER`]): 32 rows of `f32`, dimension after dimension, a row a lane.
//! - **Tiles**: rows one after another; the loop shares loads among a few queries and rows.
//!
//! # The contract: the same bits
//!
//! `scalar.rs` is the meaning of every kernel, and what a level returns has its bits: a file must be the same bytes
//! whatever built it. What keeps that up:
//!
//! - **32 lanes, always.** Term `i` of a sum goes to lane `i % 32`, whatever the width of a register (`lanes.rs`). A
//!   set holds the 32 lanes in as many registers as it needs; lanes meet only at the end, `i` with
//!   `i + 16`, then `i + 8`, `i + 4`, `i + 2`, `i + 1`. The last round is filled up with zeros, which are added like other terms.
//!   Columns and slivers have a sum of their own in each lane, in the order of the dimensions.
//! - **Terms are fused.** `mul_add` rounds once. A set without a fused multiply-add cannot be a level.
//! - **Nothing else is fused.** Where `scalar.rs` multiplies, then adds, so does a level. The compiler neither fuses
//!   nor reorders `f32`, so that plain loops, compiled for a wider set, keep their bits.
//! - **IEEE throughout**: subnormal numbers are numbers (no flush to zero), conversions to `f16` round to nearest,
//!   ties to even, and signs of zero count. Only the payload of a NaN is free.
//! - **Integers are exact**, in any order. What each instruction may hold is said beside it: where 16 bits fill up,
//!   and why 32 do not.
//! - **Reads stay inside the slice**, tails too: the last row of a mapped file may end where its page does.
//!
//! # How a level is chosen
//!
//! `cpu.rs` asks the CPU once and lists the levels that it has; [`level`] is the best of them, or what `OSLER_SIMD`
//! lowers it to. [`Kernels`] holds a table of functions, one table a level (`table.rs`). Each function is compiled
//! with `#[target_feature]` for its set alone: nothing in the crate is built for the machine that compiles it. A
//! value of a set's token type proves that the CPU has the set, so the operations on it are safe functions; only the
//! table's functions are `unsafe`, and `kernels.rs`, which checks lengths, is the one door to them.
//!
//! Kernels over panels and [`dot4_i8`] are not in the table: `near.rs` chooses by level, and asks for VNNI on top.
//!
//! # How a port is tested
//!
//! `agree.rs` and `agree/` run every kernel at every level of the CPU against `scalar.rs`, bit for bit:
//!
//! - every length from nothing to past two rounds of lanes, and some real ones; all small shapes of tiles and
//!   slivers;
//! - ordinary values, extreme ones (signed zeros, subnormals, products that under- and overflow), any bits at all;
//! - **guard pages** (`agree/guarded.rs`): arguments lie between two pages that may not be touched, ending at the
//!   second or starting at odd places behind the first. A read or write outside faults. One test shows that the
//!   guards hold;
//! - the comparison itself: another order of adding and an unfused product must be noticed;
//! - wrong lengths, which must be refused before a kernel runs.
//!
//! ```text
//! cargo test -p osler-kernels -- --nocapture         # shows the levels that ran, and the seed
//! OSLER_TEST_SEED=7 cargo test -p osler-kernels      # other values
//! OSLER_TEST_SIMD=all cargo test -p osler-kernels    # fails where this CPU lacks a level of its architecture
//! OSLER_SIMD=avx2 cargo test -p osler-core           # the engine on a lower level
//! make test-sanitized                                # the same under the address sanitizer
//! cargo bench --bench kernels                        # speed at every level
//! ```
//!
//! `tests/index/test_same_bytes_on_every_machine.py` compares saved files and answers at all levels. An emulator
//! shows that a port is right, never that it is fast.
//!
//! # Adding an instruction set
//!
//! 1. `cpu.rs`: a [`Level`], placed from plain to wide, as `OSLER_SIMD` compares them; its name in `name` and
//!    `from_name`; what must be detected in `vector_levels`; the architecture's list in the test that asks for all
//!    levels. Add the name to `check_simd_setting` in `rust/osler-python/src/functions.rs`, which refuses unknown
//!    ones.
//! 2. A file in the folder of the architecture, with a token type that only an `unsafe fn new` makes. Vendor
//!    intrinsics stay in that folder, each `unsafe` block with a `SAFETY:` line that names what makes it true.
//! 3. `lanes::Simd` for the token. `WIDTH` divides 32. `reduce` and `hadamard` follow the order that the trait
//!    states; `less` is false beside a NaN; `load_partial` fills up with zeros and reads nothing behind the slice.
//! 4. Functions of integers: inner products of `i8` with `i8` and of `i16` with `i8`, the look-ups of
//!    [`neighbours()`], [`scan`], [`dot_planes`], [`dot4_signs`], [`dot_fives`].
//! 5. `instantiate!` (`table.rs`) compiles everything else: `parts` is 32 / `WIDTH`; the other numbers say how many
//!    registers a loop carries, change no bit, and are found by the benchmark.
//! 6. `kernels.rs`: the table in `Kernels::at`, whose `match` must have every level on every architecture.
//! 7. `near.rs`: `near::Simd` for panels and an arm in each of the three dispatches, if the build shall be fast too.
//!    Without them panels run as plain code, as they do on ARM today.
//! 8. `memory.rs`: the prefetch instruction. Without it a walk waits for memory at each hop, as it does on ARM today.
//! 9. Run the tests above. A kernel that is not faster than the compiler's own loop is not worth its lines.
//!
//! `CONTRIBUTING.md` says how to add a kernel.

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
mod resample;
mod scalar;
mod signs;
mod sliver;
mod table;
mod tile;
#[cfg(target_arch = "x86_64")]
mod x86_64;

pub use cpu::{Level, level, levels};
pub use kernels::{
    Kernels, MAX_I8_LEN, MAX_PLANES_LEN, all_finite, all_finite_f16, columns, dot, dot_f16,
    dot_fives, dot_i8, dot_i16_i8, dot_planes, dot_tile, dot_tile_f16, dot4, dot4_f16, dot4_i16_i8,
    dot4_signs, hadamard, l2, l2_4, l2_4_f16, l2_f16, l2_tile, l2_tile_f16, neighbours,
    position_of_max, resample_f32, resample_u8, residual, scan, sliver_reach, sliver_sums,
    sum_of_squares, tables, to_f16, to_f32, to_i16,
};
pub use memory::prefetch;
pub use near::{
    MAX_PANEL_DIM, MAX_PANEL_ROWS, PANEL, PANEL_DIM_STEP, Panels, dot4_i8, nearest_among,
    nearest_of, nearest_within,
};
pub use neighbours::{CODE_DIMS, PLANE, Residual, TableScale, Terms};
pub use resample::{Sample, Sum, Taps};
pub use signs::{MOST_OF_FIVE, pack_fives, pack_signs, unpack_fives};
pub use sliver::SLIVER;
