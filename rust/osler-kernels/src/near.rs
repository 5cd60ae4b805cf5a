//! The nearest rows of each row among at most 1,024 rows of `i8` codes, by squared distance. Writes only its own
//! buffers and what it is given to fill.
//!
//! Codes are rounded to 7 bits first: without a sign such a code takes 7 bits too, so that two pairs of products fit 16 bits.
//! Who needs the order of two rows that this leaves open compares them again.
//!
//! Rows lie in *panels* of 16: four codes of each row side by side, so that one 64-byte register holds the same four
//! dimensions of 16 rows and no sum is added up across a register. The 16 rows of a panel are the lanes of all that
//! follows: distances, and lists that stay sorted by `min` and `max` alone. The shape is that of PiPNN's leaves
//! (arXiv 2602.21247): all pairs, then the few nearest of each.

use crate::{Kernels, Level};

/// Rows of a panel.
pub const PANEL: usize = 16;

/// Codes of one row that lie side by side.
const STEP: usize = 4;

/// Most rows that [`Panels`] hold: a place has the low bits of a key.
pub const MAX_PANEL_ROWS: usize = 1 << PLACE_BITS;

/// Longest rows of [`Panels`]: sums of unsigned times signed bytes stay within an `i32`.
pub const MAX_PANEL_DIM: usize = 65_536;

/// Dimensions of a row in panels are a multiple of this.
pub const PANEL_DIM_STEP: usize = 64;

/// Greatest magnitude of a code in a panel.
pub(crate) const MOST_OF_SEVEN: i8 = 63;

/// Bits of a key that say where a row lies.
const PLACE_BITS: u32 = 10;
pub(crate) const PLACES: u32 = (1 << PLACE_BITS) - 1;

/// Keys from here on name no row: the bits of an infinite distance.
const NO_KEY: u32 = f32::INFINITY.to_bits();

/// One value for each row of a panel.
pub(crate) type Lanes<T> = [T; PANEL];

/// What an instruction set provides: 16 lanes of 32 bits and a handful of operations. A value exists only where the
/// CPU has it. Written out, because what the compiler makes of loops over 16 lanes differs too much.
pub(crate) trait Simd: Copy {
    /// One 32-bit value for each row of a panel.
    type Reg: Copy;

    /// Half of four codes of each row, rounded up where that leaves a half, at most [`MOST_OF_SEVEN`].
    fn halves(self, codes: Self::Reg) -> Self::Reg;
    /// Sums of the codes of each row of a panel, and of their squares.
    fn moments(self, panel: &[i8]) -> [Self::Reg; 2];
    /// Inner products of every row of `left` (outer) with every row of `right` (lanes); `sums` are those of the codes of
    /// each left row.
    fn products(self, left: &[i8], sums: &Lanes<i32>, right: &[i8]) -> [Self::Reg; PANEL];
    /// Squared distances of one row to those of a panel, as the high bits of keys.
    fn distances(
        self,
        scale: f32,
        square: f32,
        scales: &Lanes<f32>,
        squares: &Lanes<f32>,
        dots: Self::Reg,
    ) -> Self::Reg;
    /// The square with its two sides exchanged.
    fn transpose(self, square: [Self::Reg; PANEL]) -> [Self::Reg; PANEL];
    fn splat(self, value: u32) -> Self::Reg;
    fn load(self, lanes: &Lanes<u32>) -> Self::Reg;
    fn load_codes(self, codes: &[i8; STEP * PANEL]) -> Self::Reg;
    fn store_codes(self, reg: Self::Reg, codes: &mut [i8; STEP * PANEL]);
    fn store(self, reg: Self::Reg, lanes: &mut Lanes<u32>);
    fn min(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    fn max(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
    fn or(self, a: Self::Reg, b: Self::Reg) -> Self::Reg;
}

/// The meaning of all others, and the level that runs everywhere.
#[derive(Clone, Copy)]
pub(crate) struct Plain;

impl Simd for Plain {
    type Reg = Lanes<u32>;

    #[inline(always)]
    fn halves(self, codes: Lanes<u32>) -> Lanes<u32> {
        let half = |code: i8| ((code >> 1) + (code & 1)).min(MOST_OF_SEVEN);
        codes.map(|four| {
            let codes = four.to_le_bytes().map(u8::cast_signed);
            u32::from_le_bytes(codes.map(half).map(i8::cast_unsigned))
        })
    }

    #[inline(always)]
    fn moments(self, panel: &[i8]) -> [Lanes<u32>; 2] {
        let mut moments = [[0i32; PANEL]; 2];
        for step in panel.as_chunks::<{ PANEL * STEP }>().0 {
            for (i, &code) in step.iter().enumerate() {
                moments[0][i / STEP] += i32::from(code);
                moments[1][i / STEP] += i32::from(code) * i32::from(code);
            }
        }
        moments.map(|lanes| lanes.map(i32::cast_unsigned))
    }

    #[inline(always)]
    fn products(self, left: &[i8], _: &Lanes<i32>, right: &[i8]) -> [Lanes<u32>; PANEL] {
        let mut sums = [[0i32; PANEL]; PANEL];
        let steps = left.as_chunks::<{ PANEL * STEP }>().0;
        for (left, right) in steps.iter().zip(right.as_chunks::<{ PANEL * STEP }>().0) {
            for a in 0..PANEL {
                for b in 0..PANEL {
                    for i in 0..STEP {
                        sums[a][b] +=
                            i32::from(left[a * STEP + i]) * i32::from(right[b * STEP + i]);
                    }
                }
            }
        }
        sums.map(|lanes| lanes.map(i32::cast_unsigned))
    }

    #[inline(always)]
    fn distances(
        self,
        scale: f32,
        square: f32,
        scales: &Lanes<f32>,
        squares: &Lanes<f32>,
        dots: Lanes<u32>,
    ) -> Lanes<u32> {
        let mut keys = [0; PANEL];
        for i in 0..PANEL {
            let product = (2.0 * (scale * scales[i])) * dots[i].cast_signed() as f32;
            let distance = (square + squares[i]) - product;
            // Zero also where it is not a number.
            let distance = if distance > 0.0 { distance } else { 0.0 };
            keys[i] = distance.to_bits() & !PLACES;
        }
        keys
    }

    #[inline(always)]
    fn transpose(self, square: [Lanes<u32>; PANEL]) -> [Lanes<u32>; PANEL] {
        let mut other = [[0; PANEL]; PANEL];
        for a in 0..PANEL {
            for b in 0..PANEL {
                other[b][a] = square[a][b];
            }
        }
        other
    }

    #[inline(always)]
    fn splat(self, value: u32) -> Lanes<u32> {
        [value; PANEL]
    }

    #[inline(always)]
    fn load(self, lanes: &Lanes<u32>) -> Lanes<u32> {
        *lanes
    }

    #[inline(always)]
    fn store(self, reg: Lanes<u32>, lanes: &mut Lanes<u32>) {
        *lanes = reg;
    }

    #[inline(always)]
    fn load_codes(self, codes: &[i8; STEP * PANEL]) -> Lanes<u32> {
        let fours = codes.as_chunks::<STEP>().0;
        std::array::from_fn(|i| u32::from_le_bytes(fours[i].map(i8::cast_unsigned)))
    }

    #[inline(always)]
    fn store_codes(self, reg: Lanes<u32>, codes: &mut [i8; STEP * PANEL]) {
        for (codes, four) in codes.as_chunks_mut::<STEP>().0.iter_mut().zip(reg) {
            *codes = four.to_le_bytes().map(u8::cast_signed);
        }
    }

    #[inline(always)]
    fn min(self, a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> {
        std::array::from_fn(|i| a[i].min(b[i]))
    }

    #[inline(always)]
    fn max(self, a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> {
        std::array::from_fn(|i| a[i].max(b[i]))
    }

    #[inline(always)]
    fn or(self, a: Lanes<u32>, b: Lanes<u32>) -> Lanes<u32> {
        std::array::from_fn(|i| a[i] | b[i])
    }
}

/// Up to 1,024 rows in panels, each with its scale and squared length; a buffer that is filled again and again.
///
/// A row stands for `scale * codes`; in a panel for `2 * scale * halves`, where halves are its codes over two, rounded up
/// and at most 63. With `unit = 2 * scale` and sums over halves the squared distance of two rows is
/// `(unit_a * unit_a * square_a + unit_b * unit_b * square_b) - (2 * (unit_a * unit_b)) * dot`, in `f32`, and not below zero.
///
/// ```
/// use osler_kernels::{Panels, nearest_within};
/// let rows = [[2i8; 64], [6; 64], [4; 64]];
/// let mut panels = Panels::default();
/// panels.fill(64, rows.iter().map(|row| (&row[..], 1.0)));
/// let mut keys = Vec::new();
/// nearest_within(&panels, &mut keys);
/// let near: Vec<_> = osler_kernels::nearest_of::<8>(&keys, 0).collect();
/// assert_eq!(near, [(256.0, 2), (1024.0, 1)]);
/// ```
#[derive(Debug, Default)]
pub struct Panels {
    dim: usize,
    len: usize,
    codes: Vec<i8>,
    scales: Vec<Lanes<f32>>,
    squares: Vec<Lanes<f32>>,
    sums: Vec<Lanes<i32>>,
}

impl Panels {
    /// [`Kernels::fill_panels`] of the best level.
    ///
    /// # Panics
    ///
    /// As [`Kernels::fill_panels`].
    #[track_caller]
    pub fn fill<'a>(&mut self, dim: usize, rows: impl Iterator<Item = (&'a [i8], f32)>) {
        Kernels::best().fill_panels(self, dim, rows);
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[inline(always)]
    fn panel(&self, panel: usize) -> &[i8] {
        &self.codes[panel * PANEL * self.dim..][..PANEL * self.dim]
    }
}

/// Adds a panel of 1 to 16 rows, codes and scales. Sixteen times four codes of 16 rows are a square.
#[inline(always)]
pub(crate) fn add<S: Simd>(simd: S, panels: &mut Panels, group: &[(&[i8], f32)]) {
    let from = panels.scales.len() * PANEL * panels.dim;
    let end = from + PANEL * panels.dim;
    if panels.codes.len() < end {
        panels.codes.resize(end, 0);
    }
    let panel = &mut panels.codes[from..end];
    // Missing rows repeat the last one; their infinite square keeps them out of every list.
    let rows: Lanes<&[[i8; STEP * PANEL]]> =
        std::array::from_fn(|i| group[i.min(group.len() - 1)].0.as_chunks().0);
    let steps = panel.as_chunks_mut::<{ STEP * PANEL }>().0;
    for (i, steps) in steps.as_chunks_mut::<PANEL>().0.iter_mut().enumerate() {
        let mut square = [simd.splat(0); PANEL];
        for r in 0..PANEL {
            square[r] = simd.halves(simd.load_codes(&rows[r][i]));
        }
        let square = simd.transpose(square);
        for r in 0..PANEL {
            simd.store_codes(square[r], &mut steps[r]);
        }
    }
    let mut moments = [[0; PANEL]; 2];
    for (lanes, reg) in moments.iter_mut().zip(simd.moments(panel)) {
        simd.store(reg, lanes);
    }
    let [sums, squares] = moments;
    let (mut scales, mut lengths) = ([0.0; PANEL], [f32::INFINITY; PANEL]);
    for (i, &(_, scale)) in group.iter().enumerate() {
        let unit = 2.0 * scale;
        scales[i] = unit;
        lengths[i] = (unit * unit) * squares[i].cast_signed() as f32;
    }
    panels.scales.push(scales);
    panels.squares.push(lengths);
    panels.sums.push(sums.map(u32::cast_signed));
    panels.len += group.len();
}

/// The rows nearest to row `row`, nearest first: squared distance, rounded down to 13 bits of its fraction, and place.
/// `MOST` is that of the call that made `keys`, 8 for [`nearest_within`].
///
/// # Panics
///
/// Where `keys` are not those of so many rows.
///
/// ```
/// assert_eq!(osler_kernels::nearest_of::<1>(&[u32::MAX; 16], 3).count(), 0);
/// ```
pub fn nearest_of<const MOST: usize>(
    keys: &[u32],
    row: usize,
) -> impl Iterator<Item = (f32, usize)> {
    let from = row / PANEL * MOST * PANEL + row % PANEL;
    (0..MOST)
        .map(move |i| keys[from + i * PANEL])
        .take_while(|&key| key < NO_KEY)
        .map(|key| (f32::from_bits(key & !PLACES), (key & PLACES) as usize))
}

/// Puts one key a lane into lists that are sorted by lane, and drops the largest.
#[inline(always)]
fn insert<S: Simd, const MOST: usize>(simd: S, lists: &mut [S::Reg; MOST], new: S::Reg) {
    for i in (1..MOST).rev() {
        lists[i] = simd.min(lists[i], simd.max(lists[i - 1], new));
    }
    lists[0] = simd.min(lists[0], new);
}

#[inline(always)]
fn load<S: Simd, const MOST: usize>(simd: S, lists: &[Lanes<u32>; MOST]) -> [S::Reg; MOST] {
    let mut regs = [simd.splat(0); MOST];
    for i in 0..MOST {
        regs[i] = simd.load(&lists[i]);
    }
    regs
}

#[inline(always)]
fn store<S: Simd, const MOST: usize>(
    simd: S,
    regs: &[S::Reg; MOST],
    lists: &mut [Lanes<u32>; MOST],
) {
    for i in 0..MOST {
        simd.store(regs[i], &mut lists[i]);
    }
}

/// The 8 nearest of each row among the others: every pair is computed once. `lists` come full of the largest key.
#[inline(always)]
pub(crate) fn within<S: Simd>(simd: S, rows: &Panels, lists: &mut [[Lanes<u32>; 8]]) {
    for p in 0..lists.len() {
        for q in p..lists.len() {
            let mut square = simd.products(rows.panel(p), &rows.sums[p], rows.panel(q));
            for a in 0..PANEL {
                let (scale, length) = (rows.scales[p][a], rows.squares[p][a]);
                square[a] =
                    simd.distances(scale, length, &rows.scales[q], &rows.squares[q], square[a]);
            }
            if p == q {
                for a in 0..PANEL {
                    let mut itself = [0; PANEL];
                    itself[a] = u32::MAX;
                    square[a] = simd.or(square[a], simd.load(&itself));
                }
            } else {
                let mut list = load(simd, &lists[q]);
                for a in 0..PANEL {
                    let place = simd.splat((p * PANEL + a) as u32);
                    insert(simd, &mut list, simd.or(square[a], place));
                }
                store(simd, &list, &mut lists[q]);
            }
            let square = simd.transpose(square);
            let mut list = load(simd, &lists[p]);
            for b in 0..PANEL {
                let place = simd.splat((q * PANEL + b) as u32);
                insert(simd, &mut list, simd.or(square[b], place));
            }
            store(simd, &list, &mut lists[p]);
        }
    }
}

/// The `MOST` rows of `others` that are nearest to each of `rows`. `lists` come full of the largest key.
#[inline(always)]
pub(crate) fn among<S: Simd, const MOST: usize>(
    simd: S,
    rows: &Panels,
    others: &Panels,
    lists: &mut [[Lanes<u32>; MOST]],
) {
    for q in 0..lists.len() {
        for p in 0..others.scales.len() {
            let dots = simd.products(others.panel(p), &others.sums[p], rows.panel(q));
            let mut list = load(simd, &lists[q]);
            for a in 0..PANEL {
                let (scale, length) = (others.scales[p][a], others.squares[p][a]);
                let keys =
                    simd.distances(scale, length, &rows.scales[q], &rows.squares[q], dots[a]);
                let place = simd.splat((p * PANEL + a) as u32);
                insert(simd, &mut list, simd.or(keys, place));
            }
            store(simd, &list, &mut lists[q]);
        }
    }
}

/// The lists of all panels, in place of whatever `keys` held.
fn lists_in<const MOST: usize>(keys: &mut Vec<u32>, panels: usize) -> &mut [[Lanes<u32>; MOST]] {
    keys.clear();
    keys.resize(panels * MOST * PANEL, u32::MAX);
    keys.as_chunks_mut::<PANEL>().0.as_chunks_mut::<MOST>().0
}

impl Kernels {
    /// Replaces the content of `panels` by `rows`: codes and scale of each. No code may be -128. The same content at every
    /// level.
    ///
    /// # Panics
    ///
    /// Where `dim` is no multiple of [`PANEL_DIM_STEP`] or above [`MAX_PANEL_DIM`], a row has another length, or there
    /// are more than [`MAX_PANEL_ROWS`].
    #[track_caller]
    pub fn fill_panels<'a>(
        self,
        panels: &mut Panels,
        dim: usize,
        rows: impl Iterator<Item = (&'a [i8], f32)>,
    ) {
        assert!(
            dim.is_multiple_of(PANEL_DIM_STEP) && (1..=MAX_PANEL_DIM).contains(&dim),
            "rows of {dim} codes; panels take a multiple of {PANEL_DIM_STEP} up to {MAX_PANEL_DIM}"
        );
        panels.dim = dim;
        panels.len = 0;
        panels.scales.clear();
        panels.squares.clear();
        panels.sums.clear();
        let mut rows = rows;
        loop {
            let mut group = [(&[][..], 0.0); PANEL];
            let mut count = 0;
            for (codes, scale) in rows.by_ref().take(PANEL) {
                assert!(
                    codes.len() == dim,
                    "a row of {} codes among rows of {dim}",
                    codes.len()
                );
                group[count] = (codes, scale);
                count += 1;
            }
            if count == 0 {
                break;
            }
            assert!(
                panels.len + count <= MAX_PANEL_ROWS,
                "panels hold {MAX_PANEL_ROWS} rows"
            );
            let group = &group[..count];
            match self.level() {
                #[cfg(target_arch = "x86_64")]
                level @ (Level::Avx2 | Level::Avx512) => {
                    // SAFETY: `Kernels::at` hands out a level only where the CPU has it.
                    unsafe { crate::x86_64::panels::add(level, panels, group) }
                }
                _ => add(Plain, panels, group),
            }
        }
    }

    /// The 8 nearest rows of each row of `rows`, itself apart; [`nearest_of`] reads them from `keys`.
    ///
    /// Nearest is by squared distance rounded down to 13 bits of its fraction, then by place. The same keys at every
    /// level. See [`Panels`] for an example.
    pub fn nearest_within(self, rows: &Panels, keys: &mut Vec<u32>) {
        let lists = lists_in(keys, rows.scales.len());
        match self.level() {
            #[cfg(target_arch = "x86_64")]
            level @ (Level::Avx2 | Level::Avx512) => {
                // SAFETY: `Kernels::at` hands out a level only where the CPU has it.
                unsafe { crate::x86_64::panels::within(level, rows, lists) }
            }
            _ => within(Plain, rows, lists),
        }
    }

    /// The `MOST` rows of `others` nearest to each of `rows`, where `MOST` is from 1 to 16; [`nearest_of`] reads them
    /// from `keys`. The same keys at every level.
    ///
    /// # Panics
    ///
    /// Where the two have rows of different lengths.
    ///
    /// ```
    /// use osler_kernels::{Panels, nearest_among, nearest_of};
    /// let (mut rows, mut others) = (Panels::default(), Panels::default());
    /// rows.fill(64, [(&[1i8; 64][..], 1.0)].into_iter());
    /// others.fill(64, [(&[3i8; 64][..], 1.0), (&[1i8; 64][..], 1.0)].into_iter());
    /// let mut keys = Vec::new();
    /// nearest_among::<1>(&rows, &others, &mut keys);
    /// assert_eq!(nearest_of::<1>(&keys, 0).collect::<Vec<_>>(), [(0.0, 1)]);
    /// ```
    #[track_caller]
    pub fn nearest_among<const MOST: usize>(
        self,
        rows: &Panels,
        others: &Panels,
        keys: &mut Vec<u32>,
    ) {
        const { assert!(MOST > 0 && MOST <= 16) }
        assert!(
            rows.dim == others.dim || rows.is_empty() || others.is_empty(),
            "rows of {} and {} codes",
            rows.dim,
            others.dim
        );
        let lists = lists_in::<MOST>(keys, rows.scales.len());
        match self.level() {
            #[cfg(target_arch = "x86_64")]
            level @ (Level::Avx2 | Level::Avx512) => {
                // SAFETY: `Kernels::at` hands out a level only where the CPU has it.
                unsafe { crate::x86_64::panels::among(level, rows, others, lists) }
            }
            _ => among(Plain, rows, others, lists),
        }
    }
}

impl Kernels {
    /// Inner products of one row of `i8` with four others, all of codes from -127 to 127.
    ///
    /// # Panics
    ///
    /// Where the lengths differ or exceed [`MAX_PANEL_DIM`].
    ///
    /// ```
    /// let rows: [&[i8]; 4] = [&[1, 2], &[3, 4], &[5, 6], &[-7, 8]];
    /// assert_eq!(osler_kernels::dot4_i8(&[1, 1], rows), [3, 7, 11, 1]);
    /// ```
    #[inline]
    #[track_caller]
    pub fn dot4_i8(self, query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
        assert!(
            rows.iter().all(|row| row.len() == query.len()) && query.len() <= MAX_PANEL_DIM,
            "rows of different lengths, or longer than {MAX_PANEL_DIM}"
        );
        match self.level() {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 if crate::x86_64::panels::has_vnni() => {
                // SAFETY: `Kernels::at` hands out a level only where the CPU has it, and VNNI was just found.
                unsafe { crate::x86_64::panels::dot4(query, rows) }
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 => {
                // SAFETY: `Kernels::at` hands out a level only where the CPU has it; both include AVX2.
                unsafe { crate::x86_64::panels::dot4_narrow(query, rows) }
            }
            _ => rows.map(|row| self.dot_i8(query, row)),
        }
    }
}

/// [`Kernels::dot4_i8`] of the best level.
///
/// ```
/// assert_eq!(osler_kernels::dot4_i8(&[2], [&[1], &[2], &[3], &[4]]), [2, 4, 6, 8]);
/// ```
#[inline]
#[track_caller]
pub fn dot4_i8(query: &[i8], rows: [&[i8]; 4]) -> [i32; 4] {
    Kernels::best().dot4_i8(query, rows)
}

/// [`Kernels::nearest_within`] of the best level.
///
/// ```
/// let mut keys = vec![7];
/// osler_kernels::nearest_within(&osler_kernels::Panels::default(), &mut keys);
/// assert!(keys.is_empty());
/// ```
pub fn nearest_within(rows: &Panels, keys: &mut Vec<u32>) {
    Kernels::best().nearest_within(rows, keys);
}

/// [`Kernels::nearest_among`] of the best level.
///
/// ```
/// let (panels, mut keys) = (osler_kernels::Panels::default(), vec![7]);
/// osler_kernels::nearest_among::<4>(&panels, &panels, &mut keys);
/// assert!(keys.is_empty());
/// ```
#[track_caller]
pub fn nearest_among<const MOST: usize>(rows: &Panels, others: &Panels, keys: &mut Vec<u32>) {
    Kernels::best().nearest_among::<MOST>(rows, others, keys);
}
