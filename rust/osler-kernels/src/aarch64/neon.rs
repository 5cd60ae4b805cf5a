//! 32 lanes as eight 128-bit registers (NEON). Touches nothing but its arguments.
//!
//! Checked by cross-compiling and by running the tests under `qemu-aarch64`; never yet run on the
//! hardware, so nothing is known about its speed.

use core::arch::aarch64::*;
use core::arch::asm;

use half::f16;

use crate::codes::{GROUP, ROWS, RUN_GROUPS};
use crate::lanes::{LANES, Simd};
use crate::table::instantiate;

/// Proof that the CPU has NEON.
#[derive(Clone, Copy)]
pub(crate) struct Neon(());

impl Neon {
    /// # Safety
    ///
    /// The CPU must have NEON.
    #[inline(always)]
    unsafe fn new() -> Neon {
        Neon(())
    }

    /// Exact. An instruction by name, because the compiler's own function is newer than the oldest
    /// compiler allowed.
    #[inline(always)]
    fn widen(self, halves: uint16x4_t) -> float32x4_t {
        let wide: float32x4_t;
        // SAFETY: one instruction between registers, which `self` proves the CPU to have.
        unsafe {
            asm!(
                "fcvtl {wide:v}.4s, {halves:v}.4h",
                wide = lateout(vreg) wide,
                halves = in(vreg) halves,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        wide
    }

    /// Rounded to nearest, ties to even: the rounding mode that every Rust program runs in.
    #[inline(always)]
    fn narrow(self, wide: float32x4_t) -> uint16x4_t {
        let halves: uint16x4_t;
        // SAFETY: one instruction between registers, which `self` proves the CPU to have.
        unsafe {
            asm!(
                "fcvtn {halves:v}.4h, {wide:v}.4s",
                halves = lateout(vreg) halves,
                wide = in(vreg) wide,
                options(pure, nomem, nostack, preserves_flags)
            );
        }
        halves
    }
}

impl Simd for Neon {
    type Part = float32x4_t;
    const WIDTH: usize = 4;

    #[inline(always)]
    fn zero(self) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vdupq_n_f32(value) }
    }

    #[inline(always)]
    fn less(self, a: float32x4_t, b: float32x4_t) -> u32 {
        const BITS: [u32; 4] = [1, 2, 4, 8];
        // SAFETY: `BITS` has four elements; `self` proves NEON.
        unsafe { vaddvq_u32(vandq_u32(vcltq_f32(a, b), vld1q_u32(BITS.as_ptr()))) }
    }

    #[inline(always)]
    fn load(self, block: &[f32; LANES], part: usize) -> float32x4_t {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves NEON.
        unsafe { vld1q_f32(block.as_ptr().add(part * Self::WIDTH)) }
    }

    #[inline(always)]
    fn load_f16(self, block: &[f16; LANES], part: usize) -> float32x4_t {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves NEON.
        self.widen(unsafe { vld1_u16(block.as_ptr().add(part * Self::WIDTH).cast()) })
    }

    #[inline(always)]
    fn load_partial(self, tail: &[f32], part: usize) -> float32x4_t {
        let rest = tail.get(part * Self::WIDTH..).unwrap_or(&[]);
        let mut values = [0.0; 4];
        let count = rest.len().min(Self::WIDTH);
        values[..count].copy_from_slice(&rest[..count]);
        // SAFETY: `values` has 4 elements; `self` proves NEON.
        unsafe { vld1q_f32(values.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial_f16(self, tail: &[f16], part: usize) -> float32x4_t {
        let rest = tail.get(part * Self::WIDTH..).unwrap_or(&[]);
        let mut values = [f16::ZERO; 4];
        let count = rest.len().min(Self::WIDTH);
        values[..count].copy_from_slice(&rest[..count]);
        // SAFETY: `values` has 4 elements; `self` proves NEON.
        self.widen(unsafe { vld1_u16(values.as_ptr().cast()) })
    }

    #[inline(always)]
    fn mul_add(self, a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vfmaq_f32(c, a, b) }
    }

    #[inline(always)]
    fn mul(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vmulq_f32(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vsubq_f32(a, b) }
    }

    #[inline(always)]
    fn add(self, a: float32x4_t, b: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves NEON.
        unsafe { vaddq_f32(a, b) }
    }

    #[inline(always)]
    fn reduce(self, a: float32x4_t) -> f32 {
        // SAFETY: `self` proves NEON.
        unsafe {
            let two = vadd_f32(vget_low_f32(a), vget_high_f32(a));
            vget_lane_f32::<0>(two) + vget_lane_f32::<1>(two)
        }
    }

    #[inline(always)]
    fn hadamard(self, a: float32x4_t) -> float32x4_t {
        // A product with 1 or -1 is exact, so the fused operation rounds like a sum or a difference.
        // SAFETY: both arrays have 4 elements; `self` proves NEON.
        unsafe {
            let signs = vld1q_f32([1.0, -1.0, 1.0, -1.0].as_ptr());
            let a = vfmaq_f32(vrev64q_f32(a), a, signs);
            let signs = vld1q_f32([1.0, 1.0, -1.0, -1.0].as_ptr());
            vfmaq_f32(vextq_f32::<2>(a, a), a, signs)
        }
    }

    #[inline(always)]
    fn store(self, a: float32x4_t, block: &mut [f32; LANES], part: usize) {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves NEON.
        unsafe { vst1q_f32(block.as_mut_ptr().add(part * Self::WIDTH), a) }
    }

    #[inline(always)]
    fn store_f16(self, a: float32x4_t, block: &mut [f16; LANES], part: usize) {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves NEON.
        unsafe {
            vst1_u16(
                block.as_mut_ptr().add(part * Self::WIDTH).cast(),
                self.narrow(a),
            )
        }
    }
}

/// Exact: one product is at most 128 * 128, which 16 bits hold, and pairs are added in 32 bits.
#[inline(always)]
fn dot_i8_with(_: Neon, a: &[i8], b: &[i8]) -> i32 {
    let (blocks_a, tail_a) = a.as_chunks::<16>();
    let (blocks_b, tail_b) = b.as_chunks::<16>();
    // SAFETY: loads read whole blocks; the argument proves NEON.
    let mut sum = unsafe {
        let mut sums = [vdupq_n_s32(0); 2];
        for (x, y) in blocks_a.iter().zip(blocks_b) {
            let (x, y) = (vld1q_s8(x.as_ptr()), vld1q_s8(y.as_ptr()));
            sums[0] = vpadalq_s16(sums[0], vmull_s8(vget_low_s8(x), vget_low_s8(y)));
            sums[1] = vpadalq_s16(sums[1], vmull_high_s8(x, y));
        }
        vaddvq_s32(vaddq_s32(sums[0], sums[1]))
    };
    for (x, y) in tail_a.iter().zip(tail_b) {
        sum += i32::from(*x) * i32::from(*y);
    }
    sum
}

/// Exact: products of 16 by 8 bits are below 2^23, and the caller bounds the sum.
#[inline(always)]
fn dot_i16_i8_with(_: Neon, query: &[i16], row: &[i8]) -> i32 {
    let (blocks_q, tail_q) = query.as_chunks::<8>();
    let (blocks_r, tail_r) = row.as_chunks::<8>();
    // SAFETY: loads read whole blocks; the argument proves NEON.
    let whole = unsafe {
        let [mut low, mut high] = [vdupq_n_s32(0); 2];
        for (q, r) in blocks_q.iter().zip(blocks_r) {
            let (q, r) = (vld1q_s16(q.as_ptr()), vmovl_s8(vld1_s8(r.as_ptr())));
            low = vmlal_s16(low, vget_low_s16(q), vget_low_s16(r));
            high = vmlal_high_s16(high, q, r);
        }
        vaddvq_s32(vaddq_s32(low, high))
    };
    whole + crate::scalar::dot_i16_i8(tail_q, tail_r)
}

/// Exact, as [`dot_i16_i8_with`].
#[inline(always)]
fn dot4_i16_i8_with(simd: Neon, query: &[i16], rows: [&[i8]; 4]) -> [i32; 4] {
    rows.map(|row| dot_i16_i8_with(simd, query, row))
}

/// Look-ups of one group at a time.
#[inline(always)]
fn look_up_with(_: Neon, codes: &[u8], tables: &[u8]) -> [u32; LANES] {
    /// Sums of 254 stay below 2^16 for so many steps.
    const STEPS: usize = 256;
    let half = tables.len() / 32;
    let mut sums = [0; LANES];
    for (plane, codes) in codes.chunks_exact(16 * half).enumerate() {
        let (codes, tables) = (codes.as_chunks::<16>().0, tables.as_chunks::<16>().0);
        for start in (0..half).step_by(STEPS) {
            let mut part = [0u16; 16];
            // SAFETY: loads read whole arrays, stores fill `part`; the argument proves NEON.
            unsafe {
                let nibble = vdupq_n_u8(15);
                let [mut low, mut high] = [vdupq_n_u16(0); 2];
                for group in start..half.min(start + STEPS) {
                    let code = vld1q_u8(codes[group].as_ptr());
                    let first =
                        vqtbl1q_u8(vld1q_u8(tables[group].as_ptr()), vandq_u8(code, nibble));
                    let table = vld1q_u8(tables[half + group].as_ptr());
                    let both = vaddq_u8(first, vqtbl1q_u8(table, vshrq_n_u8::<4>(code)));
                    low = vaddw_u8(low, vget_low_u8(both));
                    high = vaddw_high_u8(high, both);
                }
                vst1q_u16(part.as_mut_ptr(), low);
                vst1q_u16(part.as_mut_ptr().add(8), high);
            }
            for (sum, &part) in sums[16 * plane..].iter_mut().zip(&part) {
                *sum += u32::from(part);
            }
        }
    }
    sums
}

/// A run of groups is summed in 16 bits.
#[inline(always)]
fn scan_with(_: Neon, tables: &[u8], codes: &[u8], sums: &mut [u32; ROWS]) {
    let runs = tables
        .chunks(RUN_GROUPS * GROUP)
        .zip(codes.chunks(RUN_GROUPS * GROUP));
    for (tables, codes) in runs {
        let groups = tables.as_chunks::<GROUP>().0.iter();
        let mut totals = [[0u16; 8]; 4];
        // SAFETY: loads and stores read and write whole arrays; the argument proves NEON.
        unsafe {
            let mut wide = [vdupq_n_u16(0); 4];
            for (table, code) in groups.zip(codes.as_chunks::<GROUP>().0) {
                let (table, code) = (vld1q_u8(table.as_ptr()), vld1q_u8(code.as_ptr()));
                let low = vqtbl1q_u8(table, vandq_u8(code, vdupq_n_u8(0x0f)));
                let high = vqtbl1q_u8(table, vshrq_n_u8::<4>(code));
                wide[0] = vaddw_u8(wide[0], vget_low_u8(low));
                wide[1] = vaddw_high_u8(wide[1], low);
                wide[2] = vaddw_u8(wide[2], vget_low_u8(high));
                wide[3] = vaddw_high_u8(wide[3], high);
            }
            for i in 0..4 {
                vst1q_u16(totals[i].as_mut_ptr(), wide[i]);
            }
        }
        for (sum, total) in sums.iter_mut().zip(totals.as_flattened()) {
            *sum += u32::from(*total);
        }
    }
}

#[inline(always)]
fn dot_planes_with(_: Neon, query: &[i8], planes: &[u8]) -> i32 {
    let plane = query.len() / 8;
    let (blocks, _) = query.as_chunks::<16>();
    // SAFETY: loads read whole blocks; the argument proves NEON.
    unsafe {
        let bit_of_lane = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        let mut sums = [vdupq_n_s32(0); 2];
        for (i, block) in blocks.iter().enumerate() {
            let mut value = vdupq_n_u8(0);
            for plane in planes.chunks_exact(plane) {
                let word = &plane[2 * i..][..2];
                let bytes = vcombine_u8(vdup_n_u8(word[0]), vdup_n_u8(word[1]));
                value = vsubq_u8(vaddq_u8(value, value), vtstq_u8(bytes, bit_of_lane));
            }
            let query = vld1q_s8(block.as_ptr());
            let low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(value)));
            let high = vreinterpretq_s16_u16(vmovl_high_u8(value));
            let (query_low, query_high) = (vmovl_s8(vget_low_s8(query)), vmovl_high_s8(query));
            sums[0] = vmlal_s16(sums[0], vget_low_s16(low), vget_low_s16(query_low));
            sums[1] = vmlal_high_s16(sums[1], low, query_low);
            sums[0] = vmlal_s16(sums[0], vget_low_s16(high), vget_low_s16(query_high));
            sums[1] = vmlal_high_s16(sums[1], high, query_high);
        }
        vaddvq_s32(vaddq_s32(sums[0], sums[1]))
    }
}

/// [`crate::dot4_signs`], in loops that the compiler makes vectors of.
#[inline(always)]
fn dot4_signs_with(_: Neon, query: &[i8], rows: [&[u8]; 4]) -> [i32; 4] {
    rows.map(|row| {
        let mut sum = 0;
        for (t, values) in query.chunks_exact(row.len()).enumerate() {
            for (&value, &bits) in values.iter().zip(row) {
                sum += i32::from(value) * i32::from(bits >> t & 1);
            }
        }
        sum
    })
}

/// [`crate::dot_fives`], in loops that the compiler makes vectors of.
#[inline(always)]
fn dot_fives_with(_: Neon, query: &[i8], signs: &[u8], rest: &[u8]) -> i32 {
    let mut sum = 0;
    for (t, values) in query.chunks_exact(signs.len()).enumerate() {
        let rest = &rest[t % 4 * signs.len()..];
        let shift = if t < 4 { 0 } else { 4 };
        for ((&value, &bits), &rest) in values.iter().zip(signs).zip(rest) {
            let level = (bits >> t & 1) << 4 | rest >> shift & 15;
            sum += i32::from(value) * i32::from(level);
        }
    }
    sum
}

instantiate!(
    level: Neon,
    token: Neon::new(),
    features: "neon",
    parts: 8,
    dot_i8: dot_i8_with,
    scan: scan_with,
    dot_planes: dot_planes_with,
    dot_i16_i8: dot_i16_i8_with,
    dot4_i16_i8: dot4_i16_i8_with,
    dot4_signs: dot4_signs_with,
    dot_fives: dot_fives_with,
    look_up: look_up_with,
    four_rows: 4,
    tile: (1, 4, 4),
    sliver_rows: 2,
);
