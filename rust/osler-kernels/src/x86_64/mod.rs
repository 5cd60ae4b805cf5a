//! The two instruction sets of x86-64. Only these files call vendor intrinsics of x86-64.

pub(crate) mod avx2;
pub(crate) mod avx512;
pub(crate) mod panels;
pub(crate) mod signs;
