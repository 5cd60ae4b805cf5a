//! Products of panels of `i8` rows: AVX-512 VNNI where the CPU has it, AVX2 otherwise. Touches nothing but its
//! arguments.

use core::arch::x86_64::*;

use crate::cpu::Level;
use crate::near::{self, Lanes, MOST_OF_SEVEN, PANEL, PLACES, Panels, Simd};

/// Proof that the CPU has AVX-512 F, BW, DQ, VL and VNNI.
#[derive(Clone, Copy)]
struct Vnni(());

/// Proof that the CPU has AVX2.
#[derive(Clone, Copy)]
struct Avx2(());

impl Simd for Vnni {
    type Reg = __m512i;

    #[inline(always)]
    fn halves(self, codes: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe {
            let offset = _mm512_set1_epi8(i8::MIN);
            let half = _mm512_avg_epu8(_mm512_xor_si512(codes, offset), offset);
            let most = _mm512_set1_epi8(MOST_OF_SEVEN);
            _mm512_min_epi8(_mm512_xor_si512(half, offset), most)
        }
    }

    #[inline(always)]
    fn moments(self, panel: &[i8]) -> [__m512i; 2] {
        let (mut sums, mut squares) = (self.splat(0), self.splat(0));
        for step in panel.as_chunks::<64>().0 {
            let codes = self.load_codes(step);
            // SAFETY: `self` proves the instructions.
            unsafe {
                let sizes = _mm512_abs_epi8(codes);
                sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), codes);
                squares = _mm512_dpbusd_epi32(squares, sizes, sizes);
            }
        }
        [sums, squares]
    }

    /// The right side is made unsigned by adding 128; what that adds is 128 times the sum of each left row.
    #[inline(always)]
    fn products(self, left: &[i8], sums: &Lanes<i32>, right: &[i8]) -> [__m512i; PANEL] {
        let (left, right) = (left.as_chunks::<64>().0, right.as_chunks::<64>().0);
        // SAFETY: `self` proves the instructions; loads and stores are of arrays of 64 bytes.
        unsafe {
            let offset = _mm512_set1_epi8(i8::MIN);
            let mut products = sums.map(|sum| _mm512_set1_epi32(-128 * sum));
            for (left, right) in left.iter().zip(right) {
                let lanes = _mm512_xor_si512(_mm512_loadu_si512(right.as_ptr().cast()), offset);
                let rows = left.as_chunks::<4>().0;
                for a in 0..PANEL {
                    let row = _mm512_set1_epi32(four(rows[a]));
                    products[a] = _mm512_dpbusd_epi32(products[a], lanes, row);
                }
            }
            products
        }
    }

    #[inline(always)]
    fn distances(
        self,
        scale: f32,
        square: f32,
        scales: &Lanes<f32>,
        squares: &Lanes<f32>,
        dots: __m512i,
    ) -> __m512i {
        // SAFETY: `self` proves the instructions; loads are of arrays of 64 bytes.
        unsafe {
            let scales = _mm512_mul_ps(_mm512_set1_ps(scale), _mm512_loadu_ps(scales.as_ptr()));
            let products = _mm512_mul_ps(
                _mm512_mul_ps(_mm512_set1_ps(2.0), scales),
                _mm512_cvtepi32_ps(dots),
            );
            let squares = _mm512_add_ps(_mm512_set1_ps(square), _mm512_loadu_ps(squares.as_ptr()));
            let distances = _mm512_sub_ps(squares, products);
            // The second operand where the first is not a number.
            let distances = _mm512_max_ps(distances, _mm512_setzero_ps());
            let places = _mm512_set1_epi32(PLACES.cast_signed());
            _mm512_andnot_si512(places, _mm512_castps_si512(distances))
        }
    }

    #[inline(always)]
    fn transpose(self, square: [__m512i; PANEL]) -> [__m512i; PANEL] {
        let mut r = square;
        let mut t = square;
        let mut columns = square;
        // SAFETY: `self` proves the instructions.
        unsafe {
            for a in 0..8 {
                t[2 * a] = _mm512_unpacklo_epi32(r[2 * a], r[2 * a + 1]);
                t[2 * a + 1] = _mm512_unpackhi_epi32(r[2 * a], r[2 * a + 1]);
            }
            for a in 0..4 {
                r[4 * a] = _mm512_unpacklo_epi64(t[4 * a], t[4 * a + 2]);
                r[4 * a + 1] = _mm512_unpackhi_epi64(t[4 * a], t[4 * a + 2]);
                r[4 * a + 2] = _mm512_unpacklo_epi64(t[4 * a + 1], t[4 * a + 3]);
                r[4 * a + 3] = _mm512_unpackhi_epi64(t[4 * a + 1], t[4 * a + 3]);
            }
            // Register `4 * g + i` now holds, in quarter `k`, column `4 * k + i` of rows `4 * g ..`.
            for i in 0..4 {
                let even = _mm512_shuffle_i32x4::<0b10_00_10_00>(r[i], r[4 + i]);
                let odd = _mm512_shuffle_i32x4::<0b11_01_11_01>(r[i], r[4 + i]);
                let even2 = _mm512_shuffle_i32x4::<0b10_00_10_00>(r[8 + i], r[12 + i]);
                let odd2 = _mm512_shuffle_i32x4::<0b11_01_11_01>(r[8 + i], r[12 + i]);
                columns[i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(even, even2);
                columns[4 + i] = _mm512_shuffle_i32x4::<0b10_00_10_00>(odd, odd2);
                columns[8 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(even, even2);
                columns[12 + i] = _mm512_shuffle_i32x4::<0b11_01_11_01>(odd, odd2);
            }
        }
        columns
    }

    #[inline(always)]
    fn splat(self, value: u32) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_set1_epi32(value.cast_signed()) }
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes<u32>) -> __m512i {
        // SAFETY: `self` proves the instructions; an array of 64 bytes is read.
        unsafe { _mm512_loadu_si512(lanes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> __m512i {
        // SAFETY: `self` proves the instructions; an array of 64 bytes is read.
        unsafe { _mm512_loadu_si512(codes.as_ptr().cast()) }
    }

    #[inline(always)]
    fn store_codes(self, reg: __m512i, codes: &mut [i8; 64]) {
        // SAFETY: `self` proves the instructions; an array of 64 bytes is written.
        unsafe { _mm512_storeu_si512(codes.as_mut_ptr().cast(), reg) }
    }

    #[inline(always)]
    fn store(self, reg: __m512i, lanes: &mut Lanes<u32>) {
        // SAFETY: `self` proves the instructions; an array of 64 bytes is written.
        unsafe { _mm512_storeu_si512(lanes.as_mut_ptr().cast(), reg) }
    }

    #[inline(always)]
    fn min(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_min_epu32(a, b) }
    }

    #[inline(always)]
    fn max(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_max_epu32(a, b) }
    }

    #[inline(always)]
    fn or(self, a: __m512i, b: __m512i) -> __m512i {
        // SAFETY: `self` proves the instructions.
        unsafe { _mm512_or_si512(a, b) }
    }
}

impl Simd for Avx2 {
    type Reg = [__m256i; 2];

    #[inline(always)]
    fn halves(self, codes: [__m256i; 2]) -> [__m256i; 2] {
        codes.map(|codes| {
            // SAFETY: `self` proves the instructions.
            unsafe {
                let offset = _mm256_set1_epi8(i8::MIN);
                let half = _mm256_avg_epu8(_mm256_xor_si256(codes, offset), offset);
                let most = _mm256_set1_epi8(MOST_OF_SEVEN);
                _mm256_min_epi8(_mm256_xor_si256(half, offset), most)
            }
        })
    }

    #[inline(always)]
    fn moments(self, panel: &[i8]) -> [[__m256i; 2]; 2] {
        let (mut sums, mut squares) = (self.splat(0), self.splat(0));
        for step in panel.as_chunks::<64>().0 {
            let codes = self.load_codes(step);
            for half in 0..2 {
                // SAFETY: `self` proves the instructions.
                unsafe {
                    let sizes = _mm256_abs_epi8(codes[half]);
                    let pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), codes[half]);
                    sums[half] = add_pairs(sums[half], pairs);
                    let pairs = _mm256_maddubs_epi16(sizes, sizes);
                    squares[half] = add_pairs(squares[half], pairs);
                }
            }
        }
        [sums, squares]
    }

    /// The right side is made unsigned by adding 64; what that adds is 64 times the sum of each left row. Two pairs of
    /// products of at most 127 and 63 stay within an `i16`.
    #[inline(always)]
    fn products(self, left: &[i8], sums: &Lanes<i32>, right: &[i8]) -> [[__m256i; 2]; PANEL] {
        /// Left rows whose sums are carried at once.
        const ROWS: usize = 4;
        let (left, right) = (left.as_chunks::<128>().0, right.as_chunks::<128>().0);
        let mut products = [self.splat(0); PANEL];
        for first in (0..PANEL).step_by(ROWS) {
            // SAFETY: `self` proves the instructions; loads are of quarters of arrays of 128 bytes.
            unsafe {
                let offset = _mm256_set1_epi8(MOST_OF_SEVEN + 1);
                let mut all = [[_mm256_setzero_si256(); 2]; ROWS];
                for a in 0..ROWS {
                    let excess = i32::from(MOST_OF_SEVEN + 1) * sums[first + a];
                    all[a] = self.splat((-excess).cast_unsigned());
                }
                for (left, right) in left.iter().zip(right) {
                    let rows = left.as_chunks::<4>().0;
                    for half in 0..2 {
                        let lanes = |step: usize| {
                            let at = right.as_ptr().add(64 * step + 32 * half);
                            _mm256_add_epi8(_mm256_loadu_si256(at.cast()), offset)
                        };
                        let lanes = [lanes(0), lanes(1)];
                        for a in 0..ROWS {
                            let pairs = |step: usize| {
                                let row = _mm256_set1_epi32(four(rows[PANEL * step + first + a]));
                                _mm256_maddubs_epi16(lanes[step], row)
                            };
                            let pairs = _mm256_add_epi16(pairs(0), pairs(1));
                            all[a][half] = add_pairs(all[a][half], pairs);
                        }
                    }
                }
                products[first..first + ROWS].copy_from_slice(&all);
            }
        }
        products
    }

    #[inline(always)]
    fn distances(
        self,
        scale: f32,
        square: f32,
        scales: &Lanes<f32>,
        squares: &Lanes<f32>,
        dots: [__m256i; 2],
    ) -> [__m256i; 2] {
        let mut keys = dots;
        for half in 0..2 {
            // SAFETY: `self` proves the instructions; loads are of halves of arrays of 64 bytes.
            unsafe {
                let scales = _mm256_loadu_ps(scales.as_ptr().add(8 * half));
                let squares = _mm256_loadu_ps(squares.as_ptr().add(8 * half));
                let scales = _mm256_mul_ps(_mm256_set1_ps(scale), scales);
                let products = _mm256_mul_ps(
                    _mm256_mul_ps(_mm256_set1_ps(2.0), scales),
                    _mm256_cvtepi32_ps(dots[half]),
                );
                let squares = _mm256_add_ps(_mm256_set1_ps(square), squares);
                let distances = _mm256_sub_ps(squares, products);
                // The second operand where the first is not a number.
                let distances = _mm256_max_ps(distances, _mm256_setzero_ps());
                let places = _mm256_set1_epi32(PLACES.cast_signed());
                keys[half] = _mm256_andnot_si256(places, _mm256_castps_si256(distances));
            }
        }
        keys
    }

    #[inline(always)]
    fn transpose(self, square: [[__m256i; 2]; PANEL]) -> [[__m256i; 2]; PANEL] {
        let mut other = square;
        for from in 0..2 {
            for to in 0..2 {
                let mut r = [square[0][0]; 8];
                for i in 0..8 {
                    r[i] = square[8 * from + i][to];
                }
                let mut t = r;
                // SAFETY: `self` proves the instructions.
                unsafe {
                    for i in 0..4 {
                        t[2 * i] = _mm256_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
                        t[2 * i + 1] = _mm256_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
                    }
                    for i in 0..2 {
                        r[4 * i] = _mm256_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
                        r[4 * i + 1] = _mm256_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
                        r[4 * i + 2] = _mm256_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
                        r[4 * i + 3] = _mm256_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
                    }
                    for i in 0..4 {
                        other[8 * to + i][from] =
                            _mm256_permute2x128_si256::<0b10_0000>(r[i], r[4 + i]);
                        other[8 * to + 4 + i][from] =
                            _mm256_permute2x128_si256::<0b11_0001>(r[i], r[4 + i]);
                    }
                }
            }
        }
        other
    }

    #[inline(always)]
    fn splat(self, value: u32) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm256_set1_epi32(value.cast_signed()); 2] }
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes<u32>) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions; both halves of an array of 64 bytes are read.
        unsafe {
            [
                _mm256_loadu_si256(lanes.as_ptr().cast()),
                _mm256_loadu_si256(lanes.as_ptr().add(8).cast()),
            ]
        }
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; 64]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions; both halves of an array of 64 bytes are read.
        unsafe {
            [
                _mm256_loadu_si256(codes.as_ptr().cast()),
                _mm256_loadu_si256(codes.as_ptr().add(32).cast()),
            ]
        }
    }

    #[inline(always)]
    fn store_codes(self, reg: [__m256i; 2], codes: &mut [i8; 64]) {
        // SAFETY: `self` proves the instructions; both halves of an array of 64 bytes are written.
        unsafe {
            _mm256_storeu_si256(codes.as_mut_ptr().cast(), reg[0]);
            _mm256_storeu_si256(codes.as_mut_ptr().add(32).cast(), reg[1]);
        }
    }

    #[inline(always)]
    fn store(self, reg: [__m256i; 2], lanes: &mut Lanes<u32>) {
        // SAFETY: `self` proves the instructions; both halves of an array of 64 bytes are written.
        unsafe {
            _mm256_storeu_si256(lanes.as_mut_ptr().cast(), reg[0]);
            _mm256_storeu_si256(lanes.as_mut_ptr().add(8).cast(), reg[1]);
        }
    }

    #[inline(always)]
    fn min(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm256_min_epu32(a[0], b[0]), _mm256_min_epu32(a[1], b[1])] }
    }

    #[inline(always)]
    fn max(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm256_max_epu32(a[0], b[0]), _mm256_max_epu32(a[1], b[1])] }
    }

    #[inline(always)]
    fn or(self, a: [__m256i; 2], b: [__m256i; 2]) -> [__m256i; 2] {
        // SAFETY: `self` proves the instructions.
        unsafe { [_mm256_or_si256(a[0], b[0]), _mm256_or_si256(a[1], b[1])] }
    }
}

/// Adds pairs of `i16` to sums of `i32`.
#[inline(always)]
unsafe fn add_pairs(sums: __m256i, pairs: __m256i) -> __m256i {
    // SAFETY: the caller promises AVX2.
    unsafe { _mm256_add_epi32(sums, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))) }
}

/// Four codes as one lane.
#[inline(always)]
fn four(codes: [i8; 4]) -> i32 {
    i32::from_le_bytes(codes.map(i8::cast_unsigned))
}

/// Whether the CPU has VNNI besides AVX-512.
#[inline]
pub(crate) fn has_vnni() -> bool {
    is_x86_feature_detected!("avx512vnni")
}

/// Inner products of one row with four others, exact: rows are made unsigned as in [`Vnni::products`].
///
/// # Safety
///
/// The CPU must have AVX-512 F, BW, DQ, VL and VNNI.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
pub(crate) unsafe fn dot4(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
    let offset = _mm512_set1_epi8(i8::MIN);
    let mut sums = [_mm512_setzero_si512(); 4];
    let mut excess = _mm512_setzero_si512();
    let mut at = 0;
    while at < query.len() {
        let mask = u64::MAX >> (64 - (query.len() - at).min(64));
        // SAFETY: masked loads touch only the bytes of their mask, which lie in rows as long as the query.
        let load = |row: &[i8]| unsafe { _mm512_maskz_loadu_epi8(mask, row.as_ptr().add(at)) };
        let codes = load(query);
        excess = _mm512_dpbusd_epi32(excess, offset, codes);
        for i in 0..4 {
            let row = _mm512_xor_si512(load(rows[i]), offset);
            sums[i] = _mm512_dpbusd_epi32(sums[i], row, codes);
        }
        at += 64;
    }
    let [a, b, c, d] = sums.map(|sum| _mm512_sub_epi32(sum, excess));
    let ab = _mm512_add_epi32(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
    let cd = _mm512_add_epi32(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
    let all = _mm512_add_epi32(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
    let eight = _mm256_add_epi32(
        _mm512_castsi512_si256(all),
        _mm512_extracti64x4_epi64::<1>(all),
    );
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(eight),
        _mm256_extracti128_si256::<1>(eight),
    );
    let mut products = [0; 4];
    // SAFETY: an array of 16 bytes is written.
    unsafe { _mm_storeu_si128(products.as_mut_ptr().cast(), four) };
    products
}

/// The same with AVX2, exact for codes from -127 to 127: a pair of products of such magnitudes stays within an `i16`.
///
/// # Safety
///
/// The CPU must have AVX2.
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn dot4_narrow(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
    let ones = _mm256_set1_epi16(1);
    let mut sums = [_mm256_setzero_si256(); 4];
    let mut add = |query: &[i8; 32], rows: [&[i8; 32]; 4]| {
        // SAFETY: loads are of arrays of 32 bytes.
        let load = |codes: &[i8; 32]| unsafe { _mm256_loadu_si256(codes.as_ptr().cast()) };
        let query = load(query);
        let sizes = _mm256_abs_epi8(query);
        for i in 0..4 {
            let pairs = _mm256_maddubs_epi16(sizes, _mm256_sign_epi8(load(rows[i]), query));
            sums[i] = _mm256_add_epi32(sums[i], _mm256_madd_epi16(pairs, ones));
        }
    };
    let (blocks, tail) = query.as_chunks::<32>();
    let [a, b, c, d] = rows.map(|row| row.as_chunks::<32>());
    for ((((query, a), b), c), d) in blocks.iter().zip(a.0).zip(b.0).zip(c.0).zip(d.0) {
        add(query, [a, b, c, d]);
    }
    if !tail.is_empty() {
        let whole = |codes: &[i8]| {
            let mut whole = [0; 32];
            whole[..tail.len()].copy_from_slice(codes);
            whole
        };
        let [a, b, c, d] = [a.1, b.1, c.1, d.1].map(whole);
        add(&whole(tail), [&a, &b, &c, &d]);
    }
    let [a, b, c, d] = sums;
    let all = _mm256_hadd_epi32(_mm256_hadd_epi32(a, b), _mm256_hadd_epi32(c, d));
    let four = _mm_add_epi32(
        _mm256_castsi256_si128(all),
        _mm256_extracti128_si256::<1>(all),
    );
    let mut products = [0; 4];
    // SAFETY: an array of 16 bytes is written.
    unsafe { _mm_storeu_si128(products.as_mut_ptr().cast(), four) };
    products
}

/// # Safety
///
/// The CPU must have the level, which is AVX2 or AVX-512.
pub(crate) unsafe fn add(level: Level, panels: &mut Panels, group: &[(&[i8], f32)]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn vnni(simd: Vnni, panels: &mut Panels, group: &[(&[i8], f32)]) {
        near::add(simd, panels, group);
    }
    #[target_feature(enable = "avx2,fma")]
    fn avx2(simd: Avx2, panels: &mut Panels, group: &[(&[i8], f32)]) {
        near::add(simd, panels, group);
    }
    if level == Level::Avx512 && has_vnni() {
        // SAFETY: the caller promises the level, and VNNI was just found.
        unsafe { vnni(Vnni(()), panels, group) }
    } else {
        // SAFETY: the caller promises a level that includes AVX2.
        unsafe { avx2(Avx2(()), panels, group) }
    }
}

/// # Safety
///
/// The CPU must have the level, which is AVX2 or AVX-512.
pub(crate) unsafe fn within(level: Level, rows: &Panels, lists: &mut [[Lanes<u32>; 8]]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn vnni(simd: Vnni, rows: &Panels, lists: &mut [[Lanes<u32>; 8]]) {
        near::within(simd, rows, lists);
    }
    #[target_feature(enable = "avx2,fma")]
    fn avx2(simd: Avx2, rows: &Panels, lists: &mut [[Lanes<u32>; 8]]) {
        near::within(simd, rows, lists);
    }
    if level == Level::Avx512 && has_vnni() {
        // SAFETY: the caller promises the level, and VNNI was just found.
        unsafe { vnni(Vnni(()), rows, lists) }
    } else {
        // SAFETY: the caller promises a level that includes AVX2.
        unsafe { avx2(Avx2(()), rows, lists) }
    }
}

/// # Safety
///
/// The CPU must have the level, which is AVX2 or AVX-512.
pub(crate) unsafe fn among<const MOST: usize>(
    level: Level,
    rows: &Panels,
    others: &Panels,
    lists: &mut [[Lanes<u32>; MOST]],
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
    fn vnni<const MOST: usize>(
        simd: Vnni,
        rows: &Panels,
        others: &Panels,
        lists: &mut [[Lanes<u32>; MOST]],
    ) {
        near::among(simd, rows, others, lists);
    }
    #[target_feature(enable = "avx2,fma")]
    fn avx2<const MOST: usize>(
        simd: Avx2,
        rows: &Panels,
        others: &Panels,
        lists: &mut [[Lanes<u32>; MOST]],
    ) {
        near::among(simd, rows, others, lists);
    }
    if level == Level::Avx512 && has_vnni() {
        // SAFETY: the caller promises the level, and VNNI was just found.
        unsafe { vnni(Vnni(()), rows, others, lists) }
    } else {
        // SAFETY: the caller promises a level that includes AVX2.
        unsafe { avx2(Avx2(()), rows, others, lists) }
    }
}
