//! Rows of few bits by AVX2, for the sets that have it: the bits of 16 bytes in turn, two rows or two bits side by side in a
//! register. Touches nothing but its arguments.

use core::arch::x86_64::*;

use crate::lanes::Simd;

/// 16 bytes, or 8 bytes and zeros.
///
/// # Safety
/// So many bytes can be read.
#[inline(always)]
unsafe fn load(from: *const u8, whole: bool) -> __m128i {
    // SAFETY: the caller promises the bytes; SSE2 belongs to x86-64.
    unsafe {
        if whole {
            _mm_loadu_si128(from.cast())
        } else {
            _mm_loadl_epi64(from.cast())
        }
    }
}

/// [`crate::dot4_signs`]: two rows side by side in a register; the bits of a byte in turn.
#[inline(always)]
pub(in crate::x86_64) fn dot4_signs<S: Simd>(_: S, query: &[i8], rows: [&[u8]; 4]) -> [i32; 4] {
    let eighth = query.len() / 8;
    assert!(
        query.len().is_multiple_of(64) && rows.iter().all(|row| row.len() == eighth),
        "rows have an eighth of the query's length"
    );
    // SAFETY: loads of 16 bytes at `at` end at or before `eighth`, those of the last 8 bytes end there, and the query has
    // eight times as many; the token proves AVX2, which both sets have.
    unsafe {
        let mut sums = [_mm256_setzero_si256(); 2];
        for at in (0..eighth).step_by(16) {
            let load = |from| load(from, at + 16 <= eighth);
            let row = |i: usize| load(rows[i].as_ptr().add(at));
            let pairs = [
                _mm256_set_m128i(row(1), row(0)),
                _mm256_set_m128i(row(3), row(2)),
            ];
            // Eight times two products of at most 128 fit into 16 bits.
            let mut short = [_mm256_setzero_si256(); 2];
            macro_rules! bit {
                ($($t:literal)*) => {$(
                    let values = load(query.as_ptr().add($t * eighth + at).cast());
                    let values = _mm256_broadcastsi128_si256(values);
                    for i in 0..2 {
                        let bits = _mm256_srli_epi16::<$t>(pairs[i]);
                        let bits = _mm256_and_si256(bits, _mm256_set1_epi8(1));
                        let products = _mm256_maddubs_epi16(bits, values);
                        short[i] = _mm256_add_epi16(short[i], products);
                    }
                )*};
            }
            bit!(0 1 2 3 4 5 6 7);
            for i in 0..2 {
                let wide = _mm256_madd_epi16(short[i], _mm256_set1_epi16(1));
                sums[i] = _mm256_add_epi32(sums[i], wide);
            }
        }
        let both = _mm256_hadd_epi32(sums[0], sums[1]);
        let both = _mm256_hadd_epi32(both, both);
        let low = _mm256_castsi256_si128(both);
        let high = _mm256_extracti128_si256::<1>(both);
        [
            _mm_extract_epi32::<0>(low),
            _mm_extract_epi32::<0>(high),
            _mm_extract_epi32::<1>(low),
            _mm_extract_epi32::<1>(high),
        ]
    }
}

/// [`crate::dot_fives`]: bit `t` beside bit `t + 4`, as the halves of the rest's bytes are.
#[inline(always)]
pub(in crate::x86_64) fn dot_fives<S: Simd>(_: S, query: &[i8], signs: &[u8], rest: &[u8]) -> i32 {
    let eighth = signs.len();
    assert!(
        query.len().is_multiple_of(64) && query.len() == 8 * eighth && rest.len() == 4 * eighth,
        "signs have an eighth of the query's length, and the rest half of it"
    );
    // SAFETY: loads of 16 bytes at `at` end at or before `eighth`, those of the last 8 bytes end there; the rest has four
    // times as many, the query eight times; the token proves AVX2, which both sets have.
    unsafe {
        let mut sum = _mm256_setzero_si256();
        for at in (0..eighth).step_by(16) {
            let load = |from| load(from, at + 16 <= eighth);
            let beside = |low, high| _mm256_set_m128i(high, low);
            let bytes = load(signs.as_ptr().add(at));
            let bytes = beside(bytes, _mm_srli_epi16::<4>(bytes));
            // Four times two products of at most 31 x 128 fit into 16 bits.
            let mut short = _mm256_setzero_si256();
            macro_rules! bit {
                ($($t:literal $up:literal)*) => {$(
                    let from = $t * eighth + at;
                    let sign = _mm256_slli_epi16::<$up>(bytes);
                    let sign = _mm256_and_si256(sign, _mm256_set1_epi8(16));
                    let halves = load(rest.as_ptr().add(from));
                    let halves = beside(halves, _mm_srli_epi16::<4>(halves));
                    let halves = _mm256_and_si256(halves, _mm256_set1_epi8(15));
                    let values = beside(
                        load(query.as_ptr().add(from).cast()),
                        load(query.as_ptr().add(from + 4 * eighth).cast()),
                    );
                    let products = _mm256_maddubs_epi16(_mm256_or_si256(sign, halves), values);
                    short = _mm256_add_epi16(short, products);
                )*};
            }
            bit!(0 4 1 3 2 2 3 1);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(short, _mm256_set1_epi16(1)));
        }
        let both = _mm_add_epi32(
            _mm256_castsi256_si128(sum),
            _mm256_extracti128_si256::<1>(sum),
        );
        let both = _mm_hadd_epi32(both, both);
        _mm_extract_epi32::<0>(_mm_hadd_epi32(both, both))
    }
}
