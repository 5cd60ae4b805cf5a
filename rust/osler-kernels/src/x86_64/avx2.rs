//! 32 lanes as four 256-bit registers (AVX2, FMA, F16C). Touches nothing but its arguments.

use core::arch::x86_64::*;

use half::f16;

use crate::codes::{GROUP, ROWS, RUN_GROUPS};
use crate::lanes::{LANES, Simd};
use crate::table::instantiate;

/// Proof that the CPU has AVX2, FMA and F16C.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(());

impl Avx2 {
    /// # Safety
    ///
    /// The CPU must have AVX2, FMA and F16C.
    #[inline(always)]
    unsafe fn new() -> Avx2 {
        Avx2(())
    }

    /// All ones in the lanes below `count`, zero in the others.
    #[inline(always)]
    fn mask(self, count: usize) -> __m256i {
        const ONES_THEN_ZEROS: [i32; 16] = [-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0];
        let start = &ONES_THEN_ZEROS[Self::WIDTH - count.min(Self::WIDTH)..][..Self::WIDTH];
        // SAFETY: the slice has 8 elements; `self` proves AVX2.
        unsafe { _mm256_loadu_si256(start.as_ptr().cast()) }
    }
}

impl Avx2 {
    #[inline(always)]
    fn zero_i32(self) -> __m256i {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_setzero_si256() }
    }

    #[inline(always)]
    fn sum_i32(self, sums: [__m256i; 2]) -> i32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let eight = _mm256_add_epi32(sums[0], sums[1]);
            let four = _mm_add_epi32(
                _mm256_castsi256_si128(eight),
                _mm256_extracti128_si256::<1>(eight),
            );
            let two = _mm_add_epi32(four, _mm_shuffle_epi32::<0b01_00_11_10>(four));
            let one = _mm_add_epi32(two, _mm_shuffle_epi32::<0b00_00_00_01>(two));
            _mm_cvtsi128_si32(one)
        }
    }

    /// Adds the products of each half to its own sums.
    #[inline(always)]
    fn add_products(self, sums: [__m256i; 2], x: &[i8; 32], y: &[i8; 32]) -> [__m256i; 2] {
        let [low, high] = sums;
        // SAFETY: both halves of a block lie inside it; `self` proves AVX2.
        unsafe {
            let wide = |block: &[i8; 32], half: usize| {
                _mm256_cvtepi8_epi16(_mm_loadu_si128(block.as_ptr().add(16 * half).cast()))
            };
            [
                _mm256_add_epi32(low, _mm256_madd_epi16(wide(x, 0), wide(y, 0))),
                _mm256_add_epi32(high, _mm256_madd_epi16(wide(x, 1), wide(y, 1))),
            ]
        }
    }
}

impl Simd for Avx2 {
    type Part = __m256;
    const WIDTH: usize = 8;

    #[inline(always)]
    fn zero(self) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_set1_ps(value) }
    }

    #[inline(always)]
    fn less(self, a: __m256, b: __m256) -> u32 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_LT_OQ>(a, b)).cast_unsigned() }
    }

    #[inline(always)]
    fn load(self, block: &[f32; LANES], part: usize) -> __m256 {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX2.
        unsafe { _mm256_loadu_ps(block.as_ptr().add(part * Self::WIDTH)) }
    }

    #[inline(always)]
    fn load_f16(self, block: &[f16; LANES], part: usize) -> __m256 {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX2 and F16C.
        unsafe {
            _mm256_cvtph_ps(_mm_loadu_si128(
                block.as_ptr().add(part * Self::WIDTH).cast(),
            ))
        }
    }

    #[inline(always)]
    fn load_partial(self, tail: &[f32], part: usize) -> __m256 {
        let rest = tail.get(part * Self::WIDTH..).unwrap_or(&[]);
        let mask = self.mask(rest.len());
        // SAFETY: a masked load touches only the lanes of its mask, which are elements of `rest`;
        // `self` proves AVX2.
        unsafe { _mm256_maskload_ps(rest.as_ptr(), mask) }
    }

    #[inline(always)]
    fn load_partial_f16(self, tail: &[f16], part: usize) -> __m256 {
        let rest = tail.get(part * Self::WIDTH..).unwrap_or(&[]);
        let mut values = [f16::ZERO; 8];
        let count = rest.len().min(Self::WIDTH);
        values[..count].copy_from_slice(&rest[..count]);
        // SAFETY: `values` has 8 elements; `self` proves AVX2 and F16C.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(values.as_ptr().cast())) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m256, b: __m256, c: __m256) -> __m256 {
        // SAFETY: `self` proves FMA.
        unsafe { _mm256_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn mul(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_mul_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_sub_ps(a, b) }
    }

    #[inline(always)]
    fn add(self, a: __m256, b: __m256) -> __m256 {
        // SAFETY: `self` proves AVX2.
        unsafe { _mm256_add_ps(a, b) }
    }

    #[inline(always)]
    fn reduce(self, a: __m256) -> f32 {
        // SAFETY: `self` proves AVX2.
        unsafe {
            let four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps::<1>(a));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            let one = _mm_add_ss(two, _mm_movehdup_ps(two));
            _mm_cvtss_f32(one)
        }
    }

    #[inline(always)]
    fn reduce4(self, parts: [__m256; 4]) -> [f32; 4] {
        let mut sums = [0.0; 4];
        // SAFETY: `self` proves AVX2; `sums` has room for four.
        unsafe {
            let mut four = [_mm_setzero_ps(); 4];
            for i in 0..4 {
                let (low, high) = (
                    _mm256_castps256_ps128(parts[i]),
                    _mm256_extractf128_ps::<1>(parts[i]),
                );
                four[i] = _mm_add_ps(low, high);
            }
            let [a, b, c, d] = four;
            let ab = _mm_add_ps(_mm_movelh_ps(a, b), _mm_movehl_ps(b, a));
            let cd = _mm_add_ps(_mm_movelh_ps(c, d), _mm_movehl_ps(d, c));
            let even = _mm_shuffle_ps::<0b10_00_10_00>(ab, cd);
            let odd = _mm_shuffle_ps::<0b11_01_11_01>(ab, cd);
            _mm_storeu_ps(sums.as_mut_ptr(), _mm_add_ps(even, odd));
        }
        sums
    }

    #[inline(always)]
    fn hadamard(self, a: __m256) -> __m256 {
        // A product with 1 or -1 is exact, so the fused operation rounds like a sum or a difference.
        // SAFETY: `self` proves AVX2 and FMA.
        unsafe {
            let signs = _mm256_setr_ps(1.0, -1.0, 1.0, -1.0, 1.0, -1.0, 1.0, -1.0);
            let a = _mm256_fmadd_ps(a, signs, _mm256_permute_ps::<0b10_11_00_01>(a));
            let signs = _mm256_setr_ps(1.0, 1.0, -1.0, -1.0, 1.0, 1.0, -1.0, -1.0);
            let a = _mm256_fmadd_ps(a, signs, _mm256_permute_ps::<0b01_00_11_10>(a));
            let signs = _mm256_setr_ps(1.0, 1.0, 1.0, 1.0, -1.0, -1.0, -1.0, -1.0);
            _mm256_fmadd_ps(a, signs, _mm256_permute2f128_ps::<0x01>(a, a))
        }
    }

    #[inline(always)]
    fn store(self, a: __m256, block: &mut [f32; LANES], part: usize) {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX2.
        unsafe { _mm256_storeu_ps(block.as_mut_ptr().add(part * Self::WIDTH), a) }
    }

    #[inline(always)]
    fn store_f16(self, a: __m256, block: &mut [f16; LANES], part: usize) {
        assert!(part < LANES / Self::WIDTH);
        // SAFETY: the part lies inside the block, asserted above; `self` proves AVX2 and F16C.
        unsafe {
            let halves = _mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(a);
            _mm_storeu_si128(block.as_mut_ptr().add(part * Self::WIDTH).cast(), halves);
        }
    }
}

/// Exact: a pair of products is at most 2 * 128 * 128, which 32 bits hold.
#[inline(always)]
fn dot_i8_with(simd: Avx2, a: &[i8], b: &[i8]) -> i32 {
    let (blocks_a, tail_a) = a.as_chunks::<32>();
    let (blocks_b, tail_b) = b.as_chunks::<32>();
    let mut sums = [simd.zero_i32(); 2];
    for (x, y) in blocks_a.iter().zip(blocks_b) {
        sums = simd.add_products(sums, x, y);
    }
    if !tail_a.is_empty() {
        let (mut x, mut y) = ([0; 32], [0; 32]);
        x[..tail_a.len()].copy_from_slice(tail_a);
        y[..tail_b.len()].copy_from_slice(tail_b);
        sums = simd.add_products(sums, &x, &y);
    }
    simd.sum_i32(sums)
}

/// Exact: products of 16 by 8 bits pair up below 2^24, and the caller bounds the sum.
#[inline(always)]
fn dot_i16_i8_with(simd: Avx2, query: &[i16], row: &[i8]) -> i32 {
    let (blocks_q, tail_q) = query.as_chunks::<32>();
    let (blocks_r, tail_r) = row.as_chunks::<32>();
    let mut sums = [simd.zero_i32(); 2];
    for (q, r) in blocks_q.iter().zip(blocks_r) {
        // SAFETY: both halves of a block lie inside it; the argument proves AVX2.
        unsafe {
            let (q, r) = (q.as_ptr().cast::<__m256i>(), r.as_ptr().cast::<__m128i>());
            let wide = |half: usize| _mm256_cvtepi8_epi16(_mm_loadu_si128(r.add(half)));
            let products =
                |half: usize| _mm256_madd_epi16(_mm256_loadu_si256(q.add(half)), wide(half));
            sums[0] = _mm256_add_epi32(sums[0], products(0));
            sums[1] = _mm256_add_epi32(sums[1], products(1));
        }
    }
    simd.sum_i32(sums) + crate::scalar::dot_i16_i8(tail_q, tail_r)
}

/// Exact, as [`dot_i16_i8_with`]; a block of the query is read once for all rows.
#[inline(always)]
fn dot4_i16_i8_with(simd: Avx2, query: &[i16], rows: [&[i8]; 4]) -> [i32; 4] {
    let (blocks_q, tail_q) = query.as_chunks::<32>();
    let blocks = rows.map(|row| row.as_chunks::<32>());
    let [a, b, c, d] = blocks.map(|(blocks, _)| blocks);
    let mut sums = [simd.zero_i32(); 4];
    for ((((q, a), b), c), d) in blocks_q.iter().zip(a).zip(b).zip(c).zip(d) {
        for half in 0..2 {
            // SAFETY: halves lie inside their blocks; the argument proves AVX2.
            unsafe {
                let q = _mm256_loadu_si256(q.as_ptr().add(16 * half).cast());
                for (sum, block) in sums.iter_mut().zip([a, b, c, d]) {
                    let r = _mm_loadu_si128(block.as_ptr().add(16 * half).cast());
                    let products = _mm256_madd_epi16(q, _mm256_cvtepi8_epi16(r));
                    *sum = _mm256_add_epi32(*sum, products);
                }
            }
        }
    }
    let mut whole = [0; 4];
    // SAFETY: the argument proves AVX2; the store is as long as the array.
    unsafe {
        let pairs = _mm256_hadd_epi32(
            _mm256_hadd_epi32(sums[0], sums[1]),
            _mm256_hadd_epi32(sums[2], sums[3]),
        );
        let sum = _mm_add_epi32(
            _mm256_castsi256_si128(pairs),
            _mm256_extracti128_si256::<1>(pairs),
        );
        _mm_storeu_si128(whole.as_mut_ptr().cast(), sum);
    }
    for (sum, (_, tail_r)) in whole.iter_mut().zip(&blocks) {
        *sum += crate::scalar::dot_i16_i8(tail_q, tail_r);
    }
    whole
}

/// Look-ups of two groups at once, one in each half of a register.
#[inline(always)]
fn look_up_with(_: Avx2, codes: &[u8], tables: &[u8]) -> [u32; LANES] {
    let half = tables.len() / 32;
    match codes.len() / (16 * half) {
        // SAFETY: the caller checked that `codes` holds this many planes, and the token proves AVX2.
        1 => unsafe { look_up_planes::<1>(codes, tables) },
        // SAFETY: as above.
        _ => unsafe { look_up_planes::<2>(codes, tables) },
    }
}

/// # Safety
///
/// The CPU must have AVX2; `tables` has `32 * half` bytes with `half` even, and `codes` `P` planes of `16 * half`.
#[inline(always)]
unsafe fn look_up_planes<const P: usize>(codes: &[u8], tables: &[u8]) -> [u32; LANES] {
    /// Sums of 254 stay below 2^16 for so many steps.
    const STEPS: usize = 256;
    let half = tables.len() / 32;
    let mut sums = [0; LANES];
    let mut start = 0;
    while start < half {
        let end = half.min(start + 2 * STEPS);
        // SAFETY: groups `start..end` lie inside the tables and each plane by the caller's promise.
        unsafe {
            let nibble = _mm256_set1_epi8(15);
            let mut mixed = [_mm256_setzero_si256(); P];
            let mut odd = [_mm256_setzero_si256(); P];
            let mut group = start;
            while group < end {
                let low = _mm256_loadu_si256(tables.as_ptr().add(16 * group).cast());
                let high = _mm256_loadu_si256(tables.as_ptr().add(16 * (half + group)).cast());
                for p in 0..P {
                    let code = codes.as_ptr().add(16 * (p * half + group));
                    let code = _mm256_loadu_si256(code.cast());
                    let first = _mm256_shuffle_epi8(low, _mm256_and_si256(code, nibble));
                    let second = _mm256_and_si256(_mm256_srli_epi16::<4>(code), nibble);
                    let both = _mm256_add_epi8(first, _mm256_shuffle_epi8(high, second));
                    mixed[p] = _mm256_add_epi16(mixed[p], both);
                    odd[p] = _mm256_add_epi16(odd[p], _mm256_srli_epi16::<8>(both));
                }
                group += 2;
            }
            for p in 0..P {
                // What the odd bytes carried into the even ones' sums is taken out again.
                let even = _mm256_sub_epi16(mixed[p], _mm256_slli_epi16::<8>(odd[p]));
                let (mut evens, mut odds) = ([0u16; 16], [0u16; 16]);
                _mm256_storeu_si256(evens.as_mut_ptr().cast(), even);
                _mm256_storeu_si256(odds.as_mut_ptr().cast(), odd[p]);
                for i in 0..8 {
                    sums[16 * p + 2 * i] += u32::from(evens[i]) + u32::from(evens[8 + i]);
                    sums[16 * p + 2 * i + 1] += u32::from(odds[i]) + u32::from(odds[8 + i]);
                }
            }
        }
        start = end;
    }
    sums
}

/// A run of groups is summed in 16 bits; a register's halves hold different groups of the same rows.
#[inline(always)]
fn scan_with(_: Avx2, tables: &[u8], codes: &[u8], sums: &mut [u32; ROWS]) {
    let runs = tables
        .chunks(RUN_GROUPS * GROUP)
        .zip(codes.chunks(RUN_GROUPS * GROUP));
    // SAFETY: loads and stores read and write whole arrays; the argument proves AVX2.
    unsafe {
        let nibble = _mm256_set1_epi8(0x0f);
        for (tables, codes) in runs {
            let mut totals = [_mm256_setzero_si256(); 4];
            let mut add = |table: __m256i, code: __m256i| {
                let low = _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble));
                let code = _mm256_srli_epi16::<4>(code);
                let high = _mm256_shuffle_epi8(table, _mm256_and_si256(code, nibble));
                // Sums of even rows with 256 times those of odd rows, and of odd rows alone.
                totals[0] = _mm256_add_epi16(totals[0], low);
                totals[1] = _mm256_add_epi16(totals[1], _mm256_srli_epi16::<8>(low));
                totals[2] = _mm256_add_epi16(totals[2], high);
                totals[3] = _mm256_add_epi16(totals[3], _mm256_srli_epi16::<8>(high));
            };
            let (table_pairs, table_rest) = tables.as_chunks::<{ 2 * GROUP }>();
            let (code_pairs, code_rest) = codes.as_chunks::<{ 2 * GROUP }>();
            for (table, code) in table_pairs.iter().zip(code_pairs) {
                add(
                    _mm256_loadu_si256(table.as_ptr().cast()),
                    _mm256_loadu_si256(code.as_ptr().cast()),
                );
            }
            let rest = table_rest.as_chunks::<GROUP>().0.iter();
            for (table, code) in rest.zip(code_rest.as_chunks::<GROUP>().0) {
                let table = _mm_loadu_si128(table.as_ptr().cast());
                let code = _mm_loadu_si128(code.as_ptr().cast());
                add(_mm256_zextsi128_si256(table), _mm256_zextsi128_si256(code));
            }
            let halves = |sum: __m256i| {
                _mm_add_epi16(
                    _mm256_castsi256_si128(sum),
                    _mm256_extracti128_si256::<1>(sum),
                )
            };
            for side in 0..2 {
                let (both, odd) = (totals[2 * side], totals[2 * side + 1]);
                let even = halves(_mm256_sub_epi16(both, _mm256_slli_epi16::<8>(odd)));
                let odd = halves(odd);
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
fn dot_planes_with(simd: Avx2, query: &[i8], planes: &[u8]) -> i32 {
    let plane = query.len() / 8;
    let (blocks, _) = query.as_chunks::<32>();
    // SAFETY: loads read whole blocks; the argument proves AVX2.
    unsafe {
        let byte_of_lane = _mm256_setr_epi8(
            0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3,
            3, 3, 3,
        );
        let bit_of_lane = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
        let mut sums = [_mm256_setzero_si256(); 2];
        for (i, block) in blocks.iter().enumerate() {
            let mut value = _mm256_setzero_si256();
            for plane in planes.chunks_exact(plane) {
                let mut word = [0; 4];
                word.copy_from_slice(&plane[4 * i..][..4]);
                let word = _mm256_set1_epi32(i32::from_le_bytes(word));
                let bits = _mm256_and_si256(_mm256_shuffle_epi8(word, byte_of_lane), bit_of_lane);
                let minus_one = _mm256_cmpeq_epi8(bits, bit_of_lane);
                value = _mm256_sub_epi8(_mm256_add_epi8(value, value), minus_one);
            }
            let query: *const __m128i = block.as_ptr().cast();
            let low = _mm256_cvtepu8_epi16(_mm256_castsi256_si128(value));
            let products = _mm256_madd_epi16(low, _mm256_cvtepi8_epi16(_mm_loadu_si128(query)));
            sums[0] = _mm256_add_epi32(sums[0], products);
            let high = _mm256_cvtepu8_epi16(_mm256_extracti128_si256::<1>(value));
            let query = _mm256_cvtepi8_epi16(_mm_loadu_si128(query.add(1)));
            sums[1] = _mm256_add_epi32(sums[1], _mm256_madd_epi16(high, query));
        }
        simd.sum_i32(sums)
    }
}

instantiate!(
    level: Avx2,
    token: Avx2::new(),
    features: "avx2,fma,f16c",
    parts: 4,
    dot_i8: dot_i8_with,
    scan: scan_with,
    dot_planes: dot_planes_with,
    dot_i16_i8: dot_i16_i8_with,
    dot4_i16_i8: dot4_i16_i8_with,
    dot4_signs: crate::x86_64::signs::dot4_signs,
    dot_fives: crate::x86_64::signs::dot_fives,
    look_up: look_up_with,
    four_rows: 2,
    tile: (1, 2, 4),
    sliver_rows: 2,
);
