//! The instruction set of 64-bit ARM. Only this folder calls its vendor intrinsics.

pub(crate) mod neon;
