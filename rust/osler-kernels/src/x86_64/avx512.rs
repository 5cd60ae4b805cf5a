//! 32 lanes as two 512-bit registers (AVX-512 F, BW, DQ, VL). Touches nothing but its arguments.

use core::arch::x86_64::*;

use half::f16;

use crate::codes::{GROUP, ROWS, RUN_GROUPS};
use crate::lanes::{LANES, Simd};
use crate::table::instantiate;

/// Proof that the CPU has AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(());

impl Avx512 {
    /// # Safety
    ///
    /// The CPU must have AVX-512 F, BW, DQ and VL, AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn new() -> Avx512 {
        Avx512(())
    }

    /// Ones for the lanes below `count`.
    #[inline(always)]
    fn mask(self, count: usize) -> __mmask16 {
        ((1u32 << count.min(Self::WIDTH)) - 1) as __mmask16
    }
}

impl Simd for Avx512 {
    type Part = __m512;
    const WIDTH: usize = 16;

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn less(self, a: __m512, b: __m512) -> u32 {
        // SAFETY: `self` proves AVX-512.
        u32::from(unsafe { _mm512_cmp_ps_mask::<_CMP_LT_OQ>(a, b) })
    }

    #[inline(always)]
    fn load(self, block: &[f32; LANES], part: usize) -> __m512 {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX-512.
        unsafe { _mm512_loadu_ps(block.as_ptr().add(part * Self::WIDTH)) }
    }

    #[inline(always)]
    fn load_f16(self, block: &[f16; LANES], part: usize) -> __m512 {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX-512.
        unsafe {
            _mm512_cvtph_ps(_mm256_loadu_si256(
                block.as_ptr().add(part * Self::WIDTH).cast(),
            ))
        }
    }

    #[inline(always)]
    fn load_partial(self, tail: &[f32], part: usize) -> __m512 {
        let rest = tail.get(part * Self::WIDTH..).unwrap_or(&[]);
        let mask = self.mask(rest.len());
        // SAFETY: a masked load touches only the lanes of its mask, which are elements of `rest`;
        // `self` proves AVX-512.
        unsafe { _mm512_maskz_loadu_ps(mask, rest.as_ptr()) }
    }

    #[inline(always)]
    fn load_partial_f16(self, tail: &[f16], part: usize) -> __m512 {
        let rest = tail.get(part * Self::WIDTH..).unwrap_or(&[]);
        let mask = self.mask(rest.len());
        // SAFETY: a masked load touches only the lanes of its mask, which are elements of `rest`;
        // `self` proves AVX-512.
        unsafe { _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(mask, rest.as_ptr().cast())) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: `self` proves AVX-512.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn reduce(self, a: __m512) -> f32 {
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let eight = _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps::<1>(a));
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            let one = _mm_add_ss(two, _mm_movehdup_ps(two));
            _mm_cvtss_f32(one)
        }
    }

    #[inline(always)]
    fn reduce4(self, [a, b, c, d]: [__m512; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` proves AVX-512; `sums` has room for four.
        unsafe {
            let ab = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
            );
            let cd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
            );
            let abcd = _mm512_add_ps(
                _mm512_shuffle_f32x4::<0b10_00_10_00>(ab, cd),
                _mm512_shuffle_f32x4::<0b11_01_11_01>(ab, cd),
            );
            let two = _mm512_add_ps(abcd, _mm512_permute_ps::<0b01_00_11_10>(abcd));
            let one = _mm512_add_ps(two, _mm512_permute_ps::<0b10_11_00_01>(two));
            let firsts = _mm512_maskz_compress_ps(0b0001_0001_0001_0001, one);
            _mm_storeu_ps(sums.as_mut_ptr(), _mm512_castps512_ps128(firsts));
        }
        sums
    }

    #[inline(always)]
    fn hadamard(self, a: __m512) -> __m512 {
        // A product with 1 or -1 is exact, so the fused operation rounds like a sum or a difference.
        // SAFETY: `self` proves AVX-512.
        unsafe {
            let ones = |negative: __mmask16| {
                let ones = _mm512_set1_ps(1.0);
                _mm512_mask_sub_ps(ones, negative, _mm512_setzero_ps(), ones)
            };
            let a = _mm512_fmadd_ps(
                a,
                ones(0b1010_1010_1010_1010),
                _mm512_permute_ps::<0b10_11_00_01>(a),
            );
            let a = _mm512_fmadd_ps(
                a,
                ones(0b1100_1100_1100_1100),
                _mm512_permute_ps::<0b01_00_11_10>(a),
            );
            let a = _mm512_fmadd_ps(
                a,
                ones(0b1111_0000_1111_0000),
                _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a),
            );
            _mm512_fmadd_ps(
                a,
                ones(0b1111_1111_0000_0000),
                _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a),
            )
        }
    }

    #[inline(always)]
    fn store(self, a: __m512, block: &mut [f32; LANES], part: usize) {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX-512.
        unsafe { _mm512_storeu_ps(block.as_mut_ptr().add(part * Self::WIDTH), a) }
    }

    #[inline(always)]
    fn store_f16(self, a: __m512, block: &mut [f16; LANES], part: usize) {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX-512.
        unsafe {
            let halves = _mm512_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
            _mm256_storeu_si256(block.as_mut_ptr().add(part * Self::WIDTH).cast(), halves);
        }
    }
}

/// Exact: a pair of products is at most 2 * 128 * 128, which 32 bits hold.
#[inline(always)]
fn dot_i8_with(_: Avx512, a: &[i8], b: &[i8]) -> i32 {
    let (blocks_a, tail_a) = a.as_chunks::<64>();
    let (blocks_b, tail_b) = b.as_chunks::<64>();
    // SAFETY: loads read whole blocks, the last ones by a mask of the tail's elements; the argument
    // proves AVX-512.
    unsafe {
        let [mut low, mut high] = [_mm512_setzero_si512(); 2];
        for (x, y) in blocks_a.iter().zip(blocks_b) {
            let (x, y): (*const __m256i, *const __m256i) = (x.as_ptr().cast(), y.as_ptr().cast());
            let x0 = _mm512_cvtepi8_epi16(_mm256_loadu_si256(x));
            let y0 = _mm512_cvtepi8_epi16(_mm256_loadu_si256(y));
            low = _mm512_add_epi32(low, _mm512_madd_epi16(x0, y0));
            let x1 = _mm512_cvtepi8_epi16(_mm256_loadu_si256(x.add(1)));
            let y1 = _mm512_cvtepi8_epi16(_mm256_loadu_si256(y.add(1)));
            high = _mm512_add_epi32(high, _mm512_madd_epi16(x1, y1));
        }
        for (x, y) in tail_a.chunks(32).zip(tail_b.chunks(32)) {
            let mask = u32::MAX >> (32 - x.len().min(y.len()));
            let x = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, x.as_ptr()));
            let y = _mm512_cvtepi8_epi16(_mm256_maskz_loadu_epi8(mask, y.as_ptr()));
            low = _mm512_add_epi32(low, _mm512_madd_epi16(x, y));
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(low, high))
    }
}

/// Exact: products of 16 by 8 bits pair up below 2^24, and the caller bounds the sum.
#[inline(always)]
fn dot_i16_i8_with(_: Avx512, query: &[i16], row: &[i8]) -> i32 {
    let (blocks_q, tail_q) = query.as_chunks::<64>();
    let (blocks_r, tail_r) = row.as_chunks::<64>();
    // SAFETY: loads read whole blocks; the argument proves AVX-512.
    let whole = unsafe {
        let [mut low, mut high] = [_mm512_setzero_si512(); 2];
        for (q, r) in blocks_q.iter().zip(blocks_r) {
            let (q, r) = (q.as_ptr().cast::<__m512i>(), r.as_ptr().cast::<__m256i>());
            let wide = |half: usize| _mm512_cvtepi8_epi16(_mm256_loadu_si256(r.add(half)));
            let products =
                |half: usize| _mm512_madd_epi16(_mm512_loadu_si512(q.add(half)), wide(half));
            low = _mm512_add_epi32(low, products(0));
            high = _mm512_add_epi32(high, products(1));
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(low, high))
    };
    whole + crate::scalar::dot_i16_i8(tail_q, tail_r)
}

/// Exact, as [`dot_i16_i8_with`].
#[inline(always)]
fn dot4_i16_i8_with(simd: Avx512, query: &[i16], rows: [&[i8]; 4]) -> [i32; 4] {
    rows.map(|row| dot_i16_i8_with(simd, query, row))
}

/// Look-ups of four groups at once, one in each quarter of a register.
#[inline(always)]
fn look_up_with(_: Avx512, codes: &[u8], tables: &[u8]) -> [u32; LANES] {
    let half = tables.len() / 32;
    match codes.len() / (16 * half) {
        // SAFETY: the caller checked that `codes` holds this many planes, and the token proves AVX-512.
        1 => unsafe { look_up_planes::<1>(codes, tables) },
        // SAFETY: as above.
        _ => unsafe { look_up_planes::<2>(codes, tables) },
    }
}

/// # Safety
///
/// The CPU must have AVX-512; `tables` has `32 * half` bytes with `half` a multiple of 4, and `codes` `P` planes of
/// `16 * half`.
#[inline(always)]
unsafe fn look_up_planes<const P: usize>(codes: &[u8], tables: &[u8]) -> [u32; LANES] {
    /// Sums of 254 stay below 2^16 for so many steps.
    const STEPS: usize = 256;
    let half = tables.len() / 32;
    let mut sums = [0; LANES];
    let mut start = 0;
    while start < half {
        let end = half.min(start + 4 * STEPS);
        // SAFETY: groups `start..end` lie inside the tables and each plane by the caller's promise.
        unsafe {
            let nibble = _mm512_set1_epi8(15);
            let mut mixed = [_mm512_setzero_si512(); P];
            let mut odd = [_mm512_setzero_si512(); P];
            let mut group = start;
            while group < end {
                let low = _mm512_loadu_si512(tables.as_ptr().add(16 * group).cast());
                let high = _mm512_loadu_si512(tables.as_ptr().add(16 * (half + group)).cast());
                for p in 0..P {
                    let code = codes.as_ptr().add(16 * (p * half + group));
                    let code = _mm512_loadu_si512(code.cast());
                    let first = _mm512_shuffle_epi8(low, _mm512_and_si512(code, nibble));
                    let second = _mm512_and_si512(_mm512_srli_epi16::<4>(code), nibble);
                    let both = _mm512_add_epi8(first, _mm512_shuffle_epi8(high, second));
                    mixed[p] = _mm512_add_epi16(mixed[p], both);
                    odd[p] = _mm512_add_epi16(odd[p], _mm512_srli_epi16::<8>(both));
                }
                group += 4;
            }
            for p in 0..P {
                // What the odd bytes carried into the even ones' sums is taken out again.
                let even = _mm512_sub_epi16(mixed[p], _mm512_slli_epi16::<8>(odd[p]));
                let (low, high) = (wide_quarters(even), wide_quarters(odd[p]));
                let (first, second) = (
                    _mm256_unpacklo_epi32(low, high),
                    _mm256_unpackhi_epi32(low, high),
                );
                let out: *mut __m256i = sums.as_mut_ptr().add(16 * p).cast();
                let (front, back) = (
                    _mm256_permute2x128_si256::<0x20>(first, second),
                    _mm256_permute2x128_si256::<0x31>(first, second),
                );
                _mm256_storeu_si256(out, _mm256_add_epi32(_mm256_loadu_si256(out), front));
                let out = out.add(1);
                _mm256_storeu_si256(out, _mm256_add_epi32(_mm256_loadu_si256(out), back));
            }
        }
        start = end;
    }
    sums
}

/// The sums of a register's quarters, each of eight 16-bit numbers, as 32-bit numbers.
///
/// # Safety
///
/// The CPU must have AVX-512.
#[inline(always)]
unsafe fn wide_quarters(sixteens: __m512i) -> __m256i {
    // SAFETY: the caller promises AVX-512.
    unsafe {
        let (low, high) = (
            _mm512_castsi512_si256(sixteens),
            _mm512_extracti64x4_epi64::<1>(sixteens),
        );
        let wide = |quarter: __m128i| _mm256_cvtepu16_epi32(quarter);
        let front = _mm256_add_epi32(
            wide(_mm256_castsi256_si128(low)),
            wide(_mm256_extracti128_si256::<1>(low)),
        );
        let back = _mm256_add_epi32(
            wide(_mm256_castsi256_si128(high)),
            wide(_mm256_extracti128_si256::<1>(high)),
        );
        _mm256_add_epi32(front, back)
    }
}

/// A run of groups is summed in 16 bits; a register's quarters hold different groups of the same rows.
#[inline(always)]
fn scan_with(_: Avx512, tables: &[u8], codes: &[u8], sums: &mut [u32; ROWS]) {
    let runs = tables
        .chunks(RUN_GROUPS * GROUP)
        .zip(codes.chunks(RUN_GROUPS * GROUP));
    // SAFETY: loads and stores read and write whole arrays, the last loads by a mask of the elements
    // that are left; the argument proves AVX-512.
    unsafe {
        let nibble = _mm512_set1_epi8(0x0f);
        for (tables, codes) in runs {
            let mut totals = [_mm512_setzero_si512(); 4];
            let mut add = |table: __m512i, code: __m512i| {
                let low = _mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble));
                let code = _mm512_srli_epi16::<4>(code);
                let high = _mm512_shuffle_epi8(table, _mm512_and_si512(code, nibble));
                // Sums of even rows with 256 times those of odd rows, and of odd rows alone.
                totals[0] = _mm512_add_epi16(totals[0], low);
                totals[1] = _mm512_add_epi16(totals[1], _mm512_srli_epi16::<8>(low));
                totals[2] = _mm512_add_epi16(totals[2], high);
                totals[3] = _mm512_add_epi16(totals[3], _mm512_srli_epi16::<8>(high));
            };
            let (table_fours, table_rest) = tables.as_chunks::<{ 4 * GROUP }>();
            let (code_fours, code_rest) = codes.as_chunks::<{ 4 * GROUP }>();
            for (table, code) in table_fours.iter().zip(code_fours) {
                add(
                    _mm512_loadu_si512(table.as_ptr().cast()),
                    _mm512_loadu_si512(code.as_ptr().cast()),
                );
            }
            let rest = table_rest.len().min(code_rest.len());
            if rest > 0 {
                let mask = u64::MAX >> (64 - rest);
                add(
                    _mm512_maskz_loadu_epi8(mask, table_rest.as_ptr().cast()),
                    _mm512_maskz_loadu_epi8(mask, code_rest.as_ptr().cast()),
                );
            }
            let quarters = |sum: __m512i| {
                let two = _mm256_add_epi16(
                    _mm512_castsi512_si256(sum),
                    _mm512_extracti64x4_epi64::<1>(sum),
                );
                _mm_add_epi16(
                    _mm256_castsi256_si128(two),
                    _mm256_extracti128_si256::<1>(two),
                )
            };
            for side in 0..2 {
                let (both, odd) = (totals[2 * side], totals[2 * side + 1]);
                let even = quarters(_mm512_sub_epi16(both, _mm512_slli_epi16::<8>(odd)));
                let odd = quarters(odd);
                let ordered = [_mm_unpacklo_epi16(even, odd), _mm_unpackhi_epi16(even, odd)];
                let (eights, _) = sums[16 * side..][..16].as_chunks_mut::<8>();
                for (sums, sixteens) in eights.iter_mut().zip(ordered) {
                    let sums: *mut __m256i = sums.as_mut_ptr().cast();
                    let more = _mm256_cvtepu16_epi32(sixteens);
                    _mm256_storeu_si256(sums, _mm256_add_epi32(_mm256_loadu_si256(sums), more));
                }
            }
        }
    }
}

#[inline(always)]
fn dot_planes_with(_: Avx512, query: &[i8], planes: &[u8]) -> i32 {
    let plane = query.len() / 8;
    let (blocks, _) = query.as_chunks::<64>();
    // SAFETY: loads read whole blocks; the argument proves AVX-512.
    unsafe {
        let one = _mm512_set1_epi8(1);
        let mut sums = [_mm512_setzero_si512(); 2];
        for (i, block) in blocks.iter().enumerate() {
            let mut value = _mm512_setzero_si512();
            for plane in planes.chunks_exact(plane) {
                let mut word = [0; 8];
                word.copy_from_slice(&plane[8 * i..][..8]);
                value = _mm512_add_epi8(value, value);
                value = _mm512_mask_add_epi8(value, u64::from_le_bytes(word), value, one);
            }
            let query: *const __m256i = block.as_ptr().cast();
            let low = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(value));
            let products = _mm512_madd_epi16(low, _mm512_cvtepi8_epi16(_mm256_loadu_si256(query)));
            sums[0] = _mm512_add_epi32(sums[0], products);
            let high = _mm512_cvtepu8_epi16(_mm512_extracti64x4_epi64::<1>(value));
            let query = _mm512_cvtepi8_epi16(_mm256_loadu_si256(query.add(1)));
            sums[1] = _mm512_add_epi32(sums[1], _mm512_madd_epi16(high, query));
        }
        _mm512_reduce_add_epi32(_mm512_add_epi32(sums[0], sums[1]))
    }
}

instantiate!(
    level: Avx512,
    token: Avx512::new(),
    features: "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c",
    parts: 2,
    dot_i8: dot_i8_with,
    scan: scan_with,
    dot_planes: dot_planes_with,
    dot_i16_i8: dot_i16_i8_with,
    dot4_i16_i8: dot4_i16_i8_with,
    dot4_signs: crate::x86_64::signs::dot4_signs,
    dot_fives: crate::x86_64::signs::dot_fives,
    look_up: look_up_with,
    four_rows: 2,
    tile: (1, 4, 4),
    sliver_rows: 4,
);
