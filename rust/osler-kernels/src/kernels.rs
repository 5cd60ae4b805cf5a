//! The checked door to the kernels: lengths first, then the table of a level. Touches nothing but its
//! arguments.

use std::sync::OnceLock;

use half::f16;

use crate::cpu::{self, Level};
use crate::neighbours::{CODE_DIMS, PLANE, Residual, TableScale, Terms};
use crate::resample::{Sample, Taps};
use crate::sliver::SLIVER;
use crate::table::{SCALAR, Table};

/// Longest vectors of [`Kernels::dot_i8`]: no sum of that many products can leave an `i32`.
///
/// ```
/// let worst = osler_kernels::MAX_I8_LEN as i64 * 128 * 128;
/// assert!(i32::try_from(worst).is_ok());
/// ```
pub const MAX_I8_LEN: usize = 131_071;

/// Longest vectors of [`Kernels::dot_planes`]: no sum of that many products can leave an `i32`.
///
/// ```
/// let worst = osler_kernels::MAX_PLANES_LEN as i64 * 128 * 255;
/// assert!(i32::try_from(worst).is_ok());
/// ```
pub const MAX_PLANES_LEN: usize = 65_728;

/// All kernels at one level. The functions of the crate's root are those of [`Kernels::best`].
///
/// Every kernel returns the same bits at every level.
///
/// ```
/// use osler_kernels::{Kernels, levels};
/// let (a, b) = ([1.5f32; 100], [0.1f32; 100]);
/// for &level in levels() {
///     let kernels = Kernels::at(level).unwrap();
///     assert_eq!(kernels.dot(&a, &b).to_bits(), osler_kernels::dot(&a, &b).to_bits());
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Kernels(&'static Table);

impl Kernels {
    /// The kernels of the level in use, [`level`](crate::level).
    ///
    /// ```
    /// assert_eq!(osler_kernels::Kernels::best().level(), osler_kernels::level());
    /// ```
    #[inline]
    pub fn best() -> Kernels {
        static BEST: OnceLock<Kernels> = OnceLock::new();
        *BEST.get_or_init(|| Kernels::at(cpu::level()).unwrap_or(Kernels(&SCALAR)))
    }

    /// The kernels of `level`, or `None` where this CPU lacks it.
    ///
    /// ```
    /// use osler_kernels::{Kernels, Level};
    /// assert!(Kernels::at(Level::Scalar).is_some());
    /// ```
    pub fn at(level: Level) -> Option<Kernels> {
        if !cpu::levels().contains(&level) {
            return None;
        }
        match level {
            Level::Scalar => Some(Kernels(&SCALAR)),
            #[cfg(target_arch = "aarch64")]
            Level::Neon => Some(Kernels(&crate::aarch64::neon::TABLE)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => Some(Kernels(&crate::x86_64::avx2::TABLE)),
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => Some(Kernels(&crate::x86_64::avx512::TABLE)),
            #[cfg(target_arch = "x86_64")]
            Level::Neon => None,
            #[cfg(target_arch = "aarch64")]
            Level::Avx2 | Level::Avx512 => None,
            #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
            _ => None,
        }
    }

    /// The level of these kernels.
    ///
    /// ```
    /// use osler_kernels::{Kernels, Level};
    /// assert_eq!(Kernels::at(Level::Scalar).unwrap().level(), Level::Scalar);
    /// ```
    pub fn level(self) -> Level {
        self.0.level
    }
}

/// Writes each kernel twice: as a method of [`Kernels`] and as a function of the best level.
macro_rules! checked {
    ($(
        $(#[$attribute:meta])*
        fn $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)? { $($check:expr)? }
    )*) => {
        impl Kernels {
            $(
                $(#[$attribute])*
                #[inline]
                #[track_caller]
                pub fn $name(self, $($argument: $type),*) $(-> $result)? {
                    $($check;)?
                    // SAFETY: `Kernels::at` hands out a table only where the CPU has its level; the
                    // lengths were checked above.
                    unsafe { (self.0.$name)($($argument),*) }
                }
            )*
        }

        $(
            $(#[$attribute])*
            #[inline]
            #[track_caller]
            pub fn $name($($argument: $type),*) $(-> $result)? {
                Kernels::best().$name($($argument),*)
            }
        )*
    };
}

checked! {
    /// Inner product.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// assert_eq!(osler_kernels::dot(&[1.0, 2.0], &[3.0, 4.0]), 11.0);
    /// ```
    fn dot(a: &[f32], b: &[f32]) -> f32 { same_length(a.len(), b.len()) }

    /// Squared Euclidean distance.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// assert_eq!(osler_kernels::l2(&[1.0, 2.0], &[3.0, 4.0]), 8.0);
    /// ```
    fn l2(a: &[f32], b: &[f32]) -> f32 { same_length(a.len(), b.len()) }

    /// Inner product with a row of `f16`, each of whose values is converted exactly.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// use half::f16;
    /// let row = [f16::from_f32(3.0), f16::from_f32(4.0)];
    /// assert_eq!(osler_kernels::dot_f16(&[1.0, 2.0], &row), 11.0);
    /// ```
    fn dot_f16(query: &[f32], row: &[f16]) -> f32 { same_length(query.len(), row.len()) }

    /// Squared Euclidean distance to a row of `f16`, each of whose values is converted exactly.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// use half::f16;
    /// let row = [f16::from_f32(3.0), f16::from_f32(4.0)];
    /// assert_eq!(osler_kernels::l2_f16(&[1.0, 2.0], &row), 8.0);
    /// ```
    fn l2_f16(query: &[f32], row: &[f16]) -> f32 { same_length(query.len(), row.len()) }

    /// Inner product of small integers, exact.
    ///
    /// # Panics
    ///
    /// Where the lengths differ or exceed [`MAX_I8_LEN`].
    ///
    /// ```
    /// assert_eq!(osler_kernels::dot_i8(&[-128, 127], &[-128, 2]), 16_638);
    /// ```
    fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
        {
            same_length(a.len(), b.len());
            assert!(
                a.len() <= MAX_I8_LEN,
                "vectors of {} bytes could overflow the sum; at most {MAX_I8_LEN} are allowed",
                a.len()
            );
        }
    }

    /// Inner product of wide with small integers, exact while it fits an `i32`: the caller bounds the query.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// assert_eq!(osler_kernels::dot_i16_i8(&[-1000, 127], &[-128, 2]), 128_254);
    /// ```
    fn dot_i16_i8(query: &[i16], row: &[i8]) -> i32 { same_length(query.len(), row.len()) }

    /// [`dot_i16_i8`] of one query with four rows.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// let row: &[i8] = &[-128, 2];
    /// assert_eq!(osler_kernels::dot4_i16_i8(&[-1000, 127], [row; 4]), [128_254; 4]);
    /// ```
    fn dot4_i16_i8(query: &[i16], rows: [&[i8]; 4]) -> [i32; 4] { same_lengths(query, rows) }

    /// Estimates the squared distances of a query to the neighbours of a node, whose 1-bit codes lie in one or two planes
    /// of 16 (see the module `neighbours` for the layout), and returns a mask of those below `terms.limit`.
    ///
    /// Estimate `i` is `base + centres[i] - slopes[i] * (step * sum + shift)`, where `sum` adds the table entries that the
    /// neighbour's code selects.
    ///
    /// # Panics
    ///
    /// Where the lengths do not fit each other.
    ///
    /// ```
    /// use half::f16;
    /// use osler_kernels::{Terms, neighbours, tables};
    /// let mut table = [0; 256];
    /// let scale = tables(&[0.5; 64], &mut table);
    /// let (centres, slopes) = ([f16::ZERO; 16], [f16::ONE; 16]);
    /// let terms = Terms { scale, base: 100.0, limit: 90.0 };
    /// let mut found = [0.0; 32];
    /// // All signs are positive, so that each inner product is 32.
    /// let mask = neighbours(&[0xff; 128], &table, &centres, &slopes, terms, &mut found);
    /// assert!((found[0] - 68.0).abs() < 0.5);
    /// assert_eq!(mask, 0xffff);
    /// ```
    fn neighbours(
        codes: &[u8],
        tables: &[u8],
        centres: &[f16],
        slopes: &[f16],
        terms: Terms,
        estimates: &mut [f32; 32]
    ) -> u32 {
        {
            let planes = centres.len() / PLANE;
            assert!(
                matches!(centres.len(), 16 | 32)
                    && slopes.len() == centres.len()
                    && !tables.is_empty()
                    && tables.len().is_multiple_of(4 * CODE_DIMS)
                    && codes.len() == planes * tables.len() / 2,
                "{} bytes of codes, {} of tables and {} and {} factors do not fit each other",
                codes.len(),
                tables.len(),
                centres.len(),
                slopes.len()
            );
        }
    }

    /// Fills the look-up table of a query: 16 bytes for every four dimensions.
    ///
    /// # Panics
    ///
    /// Where the query's length is no multiple of [`CODE_DIMS`] or the table has not four times its length.
    ///
    /// ```
    /// let mut table = [0; 256];
    /// let scale = osler_kernels::tables(&[-1.0; 64], &mut table);
    /// // No sign agrees in entry 15, so that the sum of such entries is 0 and stands for -64.
    /// assert_eq!(table[15], 0);
    /// assert!((scale.shift + 64.0).abs() < 1.0);
    /// ```
    fn tables(query: &[f32], out: &mut [u8]) -> TableScale {
        {
            assert!(
                query.len().is_multiple_of(CODE_DIMS) && out.len() == 4 * query.len(),
                "a query of {} numbers does not fit a table of {} bytes",
                query.len(),
                out.len()
            );
        }
    }

    /// Rounds a vector to whole numbers of at most `widest`, which 16 bits hold; returns what a unit of them is worth.
    ///
    /// # Panics
    ///
    /// Where the lengths differ or are no multiple of [`CODE_DIMS`].
    ///
    /// ```
    /// let mut wide = [0; 64];
    /// let unit = osler_kernels::to_i16(&[-0.5; 64], 1000.0, &mut wide);
    /// assert_eq!((wide[0], unit), (-1000, 0.0005));
    /// ```
    fn to_i16(values: &[f32], widest: f32, out: &mut [i16]) -> f32 {
        {
            assert!(
                values.len() == out.len() && values.len().is_multiple_of(CODE_DIMS),
                "{} numbers do not fit {} places",
                values.len(),
                out.len()
            );
        }
    }

    /// Signs of `to - from`, bit `i % 8` of byte `i / 8` set where term `i` is not negative, and its sums.
    ///
    /// # Panics
    ///
    /// Where the lengths do not fit each other or are no multiple of [`CODE_DIMS`].
    ///
    /// ```
    /// let mut signs = [0; 8];
    /// let sums = osler_kernels::residual(&[1.0; 64], &[3.0; 64], &mut signs);
    /// assert_eq!((sums.squares, sums.magnitudes, sums.along), (256.0, 128.0, 64.0));
    /// assert_eq!(signs, [0xff; 8]);
    /// ```
    fn residual(from: &[f32], to: &[f32], signs: &mut [u8]) -> Residual {
        {
            assert!(
                from.len() == to.len()
                    && from.len().is_multiple_of(CODE_DIMS)
                    && signs.len() * 8 == from.len(),
                "vectors of {} and {} numbers and {} bytes of signs do not fit each other",
                from.len(),
                to.len(),
                signs.len()
            );
        }
    }

    /// Inner products of one query with four rows, each equal to [`dot`] in every bit.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// let row: &[f32] = &[3.0, 4.0];
    /// assert_eq!(osler_kernels::dot4(&[1.0, 2.0], [row; 4]), [11.0; 4]);
    /// ```
    fn dot4(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] { same_lengths(query, rows) }

    /// Squared distances of one query to four rows, each equal to [`l2`] in every bit.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// let row: &[f32] = &[3.0, 4.0];
    /// assert_eq!(osler_kernels::l2_4(&[1.0, 2.0], [row; 4]), [8.0; 4]);
    /// ```
    fn l2_4(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] { same_lengths(query, rows) }

    /// Inner products of one query with four rows of `f16`, each equal to [`dot_f16`] in every bit.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// use half::f16;
    /// let row: &[f16] = &[f16::from_f32(3.0), f16::from_f32(4.0)];
    /// assert_eq!(osler_kernels::dot4_f16(&[1.0, 2.0], [row; 4]), [11.0; 4]);
    /// ```
    fn dot4_f16(query: &[f32], rows: [&[f16]; 4]) -> [f32; 4] { same_lengths(query, rows) }

    /// Squared distances of one query to four rows of `f16`, each equal to [`l2_f16`] in every bit.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// use half::f16;
    /// let row: &[f16] = &[f16::from_f32(3.0), f16::from_f32(4.0)];
    /// assert_eq!(osler_kernels::l2_4_f16(&[1.0, 2.0], [row; 4]), [8.0; 4]);
    /// ```
    fn l2_4_f16(query: &[f32], rows: [&[f16]; 4]) -> [f32; 4] { same_lengths(query, rows) }

    /// Inner products of every query with every row, each equal to [`dot`] in every bit.
    ///
    /// `queries` and `rows` hold vectors of `dim` values one after the other; `out` is filled query by
    /// query, one value a row.
    ///
    /// # Panics
    ///
    /// Where `dim` is 0, or a length is not a whole number of vectors, or `out` is not as long as there
    /// are pairs.
    ///
    /// ```
    /// let mut out = [0.0; 2];
    /// osler_kernels::dot_tile(&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0], 2, &mut out);
    /// assert_eq!(out, [11.0, 17.0]);
    /// ```
    fn dot_tile(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
        tile_shape(queries.len(), rows.len(), dim, out.len())
    }

    /// Squared distances of every query to every row, each equal to [`l2`] in every bit.
    ///
    /// Shapes are those of [`dot_tile`].
    ///
    /// # Panics
    ///
    /// As [`dot_tile`].
    ///
    /// ```
    /// let mut out = [0.0; 2];
    /// osler_kernels::l2_tile(&[1.0, 2.0], &[3.0, 4.0, 5.0, 6.0], 2, &mut out);
    /// assert_eq!(out, [8.0, 32.0]);
    /// ```
    fn l2_tile(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
        tile_shape(queries.len(), rows.len(), dim, out.len())
    }

    /// Inner products of every query with every row of `f16`, each equal to [`dot_f16`] in every bit.
    ///
    /// Shapes are those of [`dot_tile`].
    ///
    /// # Panics
    ///
    /// As [`dot_tile`].
    ///
    /// ```
    /// use half::f16;
    /// let (row, mut out) = ([3.0, 4.0].map(f16::from_f32), [0.0]);
    /// osler_kernels::dot_tile_f16(&[1.0, 2.0], &row, 2, &mut out);
    /// assert_eq!(out, [11.0]);
    /// ```
    fn dot_tile_f16(queries: &[f32], rows: &[f16], dim: usize, out: &mut [f32]) {
        tile_shape(queries.len(), rows.len(), dim, out.len())
    }

    /// Squared distances of every query to every row of `f16`, each equal to [`l2_f16`] in every bit.
    ///
    /// Shapes are those of [`dot_tile`].
    ///
    /// # Panics
    ///
    /// As [`dot_tile`].
    ///
    /// ```
    /// use half::f16;
    /// let (row, mut out) = ([3.0, 4.0].map(f16::from_f32), [0.0]);
    /// osler_kernels::l2_tile_f16(&[1.0, 2.0], &row, 2, &mut out);
    /// assert_eq!(out, [8.0]);
    /// ```
    fn l2_tile_f16(queries: &[f32], rows: &[f16], dim: usize, out: &mut [f32]) {
        tile_shape(queries.len(), rows.len(), dim, out.len())
    }

    /// Inner products of every row with every row of some slivers, each a single sum in the order of the dimensions that
    /// begins with the sliver row's term: not the bits of [`dot`], and quicker for short vectors.
    ///
    /// `rows` holds vectors of `dim` values one after the other; slivers hold [`SLIVER`] vectors each, value `d` of vector
    /// `i` at `d * SLIVER + i`; `terms` has one value for each of their vectors. `out` is filled row by row, one value for
    /// each term.
    ///
    /// # Panics
    ///
    /// Where `dim` is 0, or the lengths do not fit each other.
    ///
    /// ```
    /// use osler_kernels::SLIVER;
    /// let mut sliver = [0.0; 2 * SLIVER];
    /// (sliver[0], sliver[SLIVER]) = (3.0, 4.0);
    /// let mut out = [0.0; SLIVER];
    /// osler_kernels::sliver_sums(&[1.0, 2.0], &sliver, &[0.5; SLIVER], 2, &mut out);
    /// assert_eq!(out[..2], [11.5, 0.5]);
    /// ```
    fn sliver_sums(rows: &[f32], slivers: &[f32], terms: &[f32], dim: usize, out: &mut [f32]) {
        sliver_shape(rows.len(), slivers.len(), terms.len(), dim, out.len(), SLIVER)
    }

    /// Which sums of rows with rows of slivers are not below `floor`: one mask for each row and sliver, row by row, bit `i`
    /// for the sliver's vector `i`. Shapes are those of [`sliver_sums`]; a sum begins with the sliver row's term plus the
    /// row's own.
    ///
    /// # Panics
    ///
    /// Where `dim` is 0, or the lengths do not fit each other.
    ///
    /// ```
    /// use osler_kernels::SLIVER;
    /// let mut sliver = [0.0; 2 * SLIVER];
    /// (sliver[0], sliver[SLIVER]) = (3.0, 4.0);
    /// let mut out = [0];
    /// osler_kernels::sliver_reach([&[1.0, 2.0], &[-1.0]], [&sliver, &[0.5; SLIVER]], 10.5, 2, &mut out);
    /// assert_eq!(out, [1]);
    /// ```
    fn sliver_reach(rows: [&[f32]; 2], slivers: [&[f32]; 2], floor: f32, dim: usize, out: &mut [u32]) {
        {
            sliver_shape(rows[0].len(), slivers[0].len(), slivers[1].len(), dim, out.len(), 1);
            same_length(rows[0].len() / dim, rows[1].len());
        }
    }

    /// Sum of squares: the inner product of a vector with itself.
    ///
    /// ```
    /// assert_eq!(osler_kernels::sum_of_squares(&[3.0, 4.0]), 25.0);
    /// ```
    fn sum_of_squares(a: &[f32]) -> f32 {}

    /// Conversion to `f16`, rounded to nearest, ties to even; too large becomes infinite.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// use half::f16;
    /// let mut to = [f16::ZERO; 2];
    /// osler_kernels::to_f16(&[0.5, 1e9], &mut to);
    /// assert_eq!(to, [f16::from_f32(0.5), f16::INFINITY]);
    /// ```
    fn to_f16(from: &[f32], to: &mut [f16]) { same_length(from.len(), to.len()) }

    /// Conversion from `f16`, exact.
    ///
    /// # Panics
    ///
    /// Where the lengths differ.
    ///
    /// ```
    /// use half::f16;
    /// let mut to = [0.0];
    /// osler_kernels::to_f32(&[f16::MAX], &mut to);
    /// assert_eq!(to, [65504.0]);
    /// ```
    fn to_f32(from: &[f16], to: &mut [f32]) { same_length(from.len(), to.len()) }

    /// Multiplies value by factor, then Hadamard-transforms in place, without scaling.
    ///
    /// # Panics
    ///
    /// Where the lengths differ, or are no power of two of at least 64.
    ///
    /// ```
    /// let mut values = [0.0f32; 64];
    /// values[0] = 3.0;
    /// osler_kernels::hadamard(&mut values, &[-1.0; 64]);
    /// assert_eq!(values, [-3.0; 64]);
    /// ```
    fn hadamard(values: &mut [f32], factors: &[f32]) {
        {
            same_length(values.len(), factors.len());
            assert!(
                values.len() >= 64 && values.len().is_power_of_two(),
                "{} values are no power of two of at least 64",
                values.len()
            );
        }
    }

    /// For each column of a matrix in row order, its start plus its inner product with `vector`.
    ///
    /// # Panics
    ///
    /// Where there are not as many starts as results, or not a row of that length for each value.
    ///
    /// ```
    /// let mut out = [0.0; 2];
    /// osler_kernels::columns(&[1.0, 10.0], &[1.0, 2.0, 3.0, 4.0], &[100.0, 200.0], &mut out);
    /// assert_eq!(out, [131.0, 242.0]);
    /// ```
    fn columns(vector: &[f32], matrix: &[f32], starts: &[f32], out: &mut [f32]) {
        {
            same_length(starts.len(), out.len());
            assert!(
                Some(matrix.len()) == vector.len().checked_mul(out.len()),
                "a matrix of {} values is not {} rows of {}",
                matrix.len(),
                vector.len(),
                out.len()
            );
        }
    }

    /// The first position of the greatest value, which must not be NaN; 0 if there is none.
    ///
    /// ```
    /// assert_eq!(osler_kernels::position_of_max(&[1.0, 3.0, 3.0]), 1);
    /// ```
    fn position_of_max(values: &[f32]) -> usize {}

    /// Adds to the sum of each of 32 rows, group by group, one of the table's 16 bytes.
    ///
    /// A group has 16 bytes in `tables` and in `codes`. The low half of byte `i` of its codes is that of
    /// row `i`, the high half that of row `i + 16`.
    ///
    /// # Panics
    ///
    /// Where the lengths differ, are no whole groups, or make more groups than an `u32` can sum.
    ///
    /// ```
    /// let table: [u8; 16] = std::array::from_fn(|i| 10 * i as u8);
    /// let mut sums = [0; 32];
    /// osler_kernels::scan(&table, &[0x72; 16], &mut sums);
    /// assert_eq!((sums[0], sums[31]), (20, 70));
    /// ```
    fn scan(tables: &[u8], codes: &[u8], sums: &mut [u32; 32]) {
        {
            same_length(tables.len(), codes.len());
            assert!(
                tables.len().is_multiple_of(16) && tables.len() <= 1 << 24,
                "{} bytes are no whole groups of 16, or too many",
                tables.len()
            );
        }
    }

    /// Sum of each query value times a number of 1 to 8 bits, exact. The numbers' highest bits lie in
    /// the first plane, that of value `i` in byte `i / 8`, and so on.
    ///
    /// # Panics
    ///
    /// Where the query's length is no multiple of 64 or exceeds [`MAX_PLANES_LEN`], or the planes are
    /// not one to eight of an eighth of it.
    ///
    /// ```
    /// let mut planes = [0; 16];
    /// (planes[0], planes[8]) = (0b01, 0b11);
    /// assert_eq!(osler_kernels::dot_planes(&[-5; 64], &planes), -5 * 3 - 5);
    /// ```
    fn dot_planes(query: &[i8], planes: &[u8]) -> i32 {
        {
            let plane = query.len() / 8;
            assert!(
                query.len().is_multiple_of(64) && query.len() <= MAX_PLANES_LEN && plane > 0,
                "a query of {} values is no multiple of 64, or too long",
                query.len()
            );
            assert!(
                planes.len().is_multiple_of(plane) && (1..=8).contains(&(planes.len() / plane)),
                "{} bytes are not 1 to 8 planes of {plane}",
                planes.len()
            );
        }
    }

    /// For each of four rows, the sum of those values of a query whose signs [`pack_signs`](crate::pack_signs) has set.
    ///
    /// # Panics
    ///
    /// Where the query's length is no multiple of 64 or exceeds [`MAX_I8_LEN`], or there are not eight values for each
    /// byte of signs.
    ///
    /// ```
    /// let row: &[u8] = &[0b1001; 8];
    /// assert_eq!(osler_kernels::dot4_signs(&[-3; 64], [row; 4]), [-48; 4]);
    /// ```
    fn dot4_signs(query: &[i8], signs: [&[u8]; 4]) -> [i32; 4] {
        {
            assert!(
                query.len().is_multiple_of(64) && query.len() <= MAX_I8_LEN,
                "a query of {} values is no multiple of 64, or too long",
                query.len()
            );
            assert!(
                signs.iter().all(|signs| 8 * signs.len() == query.len()),
                "a query of {} values does not fit the bytes of signs",
                query.len()
            );
        }
    }

    /// Inner product with the levels, from 0 to 31, of a row that [`pack_fives`](crate::pack_fives) has packed.
    ///
    /// # Panics
    ///
    /// Where the query's length is no multiple of 64 or exceeds [`MAX_I8_LEN`], or the lengths do not fit each other.
    ///
    /// ```
    /// let (mut signs, mut rest) = ([0; 8], [0; 32]);
    /// osler_kernels::pack_fives(&[3; 64], &mut signs, &mut rest);
    /// assert_eq!(osler_kernels::dot_fives(&[-1; 64], &signs, &rest), -17 * 64);
    /// ```
    fn dot_fives(query: &[i8], signs: &[u8], rest: &[u8]) -> i32 {
        {
            assert!(
                query.len().is_multiple_of(64) && query.len() <= MAX_I8_LEN,
                "a query of {} values is no multiple of 64, or too long",
                query.len()
            );
            assert!(
                query.len() == 8 * signs.len() && rest.len() == 4 * signs.len(),
                "a query of {} values does not fit {} bytes of signs and {} of rest",
                query.len(),
                signs.len(),
                rest.len()
            );
        }
    }

    /// Weighted sums along the middle one of three axes of bytes, whose place the results take.
    ///
    /// # Panics
    ///
    /// Where the shape is not that of the picture or is empty, the taps do not fit its middle axis, or `out` differs.
    ///
    /// ```
    /// let taps = osler_kernels::Taps { first: &[0], weights: &[1, 3], bits: 2 };
    /// let mut out = [0; 2];
    /// osler_kernels::resample_u8(&[0, 100, 40, 20], [1, 2, 2], taps, &mut out);
    /// assert_eq!(out, [30, 40]);
    /// osler_kernels::resample_u8(&[0, 100, 40, 20], [2, 2, 1], taps, &mut out);
    /// assert_eq!(out, [75, 25]);
    /// ```
    fn resample_u8(picture: &[u8], shape: [usize; 3], taps: Taps, out: &mut [u8]) {
        resampled(picture.len(), shape, taps, out.len())
    }

    /// Weighted sums, in `f64`, along the middle one of three axes of numbers, whose place the results take.
    ///
    /// # Panics
    ///
    /// Where the shape is not that of the picture or is empty, the taps do not fit its middle axis, or `out` differs.
    ///
    /// ```
    /// let taps = osler_kernels::Taps { first: &[0], weights: &[0.25, 0.75], bits: 0 };
    /// let mut out = [0.0; 2];
    /// osler_kernels::resample_f32(&[0.0, 100.0, 40.0, 20.0], [2, 2, 1], taps, &mut out);
    /// assert_eq!(out, [75.0, 25.0]);
    /// ```
    fn resample_f32(picture: &[f32], shape: [usize; 3], taps: Taps<f32>, out: &mut [f32]) {
        resampled(picture.len(), shape, taps, out.len())
    }

    /// Whether no value is infinite or not a number.
    ///
    /// ```
    /// assert!(osler_kernels::all_finite(&[0.0, f32::MAX]));
    /// assert!(!osler_kernels::all_finite(&[0.0, f32::NAN]));
    /// ```
    fn all_finite(a: &[f32]) -> bool {}

    /// Whether no value of a row of `f16` is infinite or not a number.
    ///
    /// ```
    /// use half::f16;
    /// assert!(osler_kernels::all_finite_f16(&[f16::MAX]));
    /// assert!(!osler_kernels::all_finite_f16(&[f16::INFINITY]));
    /// ```
    fn all_finite_f16(a: &[f16]) -> bool {}
}

#[inline(always)]
#[track_caller]
fn same_length(a: usize, b: usize) {
    assert!(
        a == b,
        "vectors of {a} and {b} elements; a kernel needs equal lengths"
    );
}

#[inline(always)]
#[track_caller]
fn same_lengths<Q, T>(query: &[Q], rows: [&[T]; 4]) {
    for row in rows {
        same_length(query.len(), row.len());
    }
}

#[inline(always)]
#[track_caller]
fn resampled<T: Sample>(picture: usize, shape: [usize; 3], taps: Taps<T>, out: usize) {
    let [outer, length, inner] = shape;
    let size = |middle: usize| outer.checked_mul(middle)?.checked_mul(inner);
    assert!(
        picture > 0 && size(length) == Some(picture),
        "{picture} samples have not the shape {shape:?}"
    );
    assert!(taps.fit(length), "taps do not fit a line of {length}");
    assert!(
        size(taps.first.len()) == Some(out),
        "out has {out} places for {} results in the shape {shape:?}",
        taps.first.len()
    );
}

/// `each` is the number of places in `out` for a row and a sliver.
#[inline(always)]
#[track_caller]
fn sliver_shape(rows: usize, slivers: usize, terms: usize, dim: usize, out: usize, each: usize) {
    assert!(dim > 0, "a sliver needs vectors of at least one value");
    assert!(
        rows.is_multiple_of(dim)
            && terms.is_multiple_of(SLIVER)
            && Some(slivers) == terms.checked_mul(dim),
        "rows of {rows} values, slivers of {slivers} and {terms} terms are not whole vectors of {dim}"
    );
    assert!(
        Some(out) == (rows / dim).checked_mul(terms / SLIVER * each),
        "out has {out} places for {} rows and {} slivers",
        rows / dim,
        terms / SLIVER
    );
}

#[inline(always)]
#[track_caller]
fn tile_shape(queries: usize, rows: usize, dim: usize, out: usize) {
    assert!(dim > 0, "a tile needs vectors of at least one value");
    assert!(
        queries.is_multiple_of(dim) && rows.is_multiple_of(dim),
        "queries of {queries} and rows of {rows} values are not whole vectors of {dim}"
    );
    assert!(
        Some(out) == (queries / dim).checked_mul(rows / dim),
        "out has {out} places for {} queries and {} rows",
        queries / dim,
        rows / dim
    );
}
