//! One table of function pointers per level, and how an instruction set's table is made. Touches
//! nothing.

use half::f16;

use crate::codes::ROWS;
use crate::cpu::Level;
use crate::lanes::LANES;
use crate::neighbours::{Residual, TableScale, Terms};
use crate::resample::Taps;
use crate::scalar;

/// Vector, matrix, starts, results.
type Columns = unsafe fn(&[f32], &[f32], &[f32], &mut [f32]);

/// What a level provides. Callers have checked the lengths and that the CPU has the level.
#[derive(Debug)]
#[allow(
    clippy::type_complexity,
    reason = "a table of functions is made of their types"
)]
pub(crate) struct Table {
    pub(crate) level: Level,
    pub(crate) dot: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) l2: unsafe fn(&[f32], &[f32]) -> f32,
    pub(crate) dot_f16: unsafe fn(&[f32], &[f16]) -> f32,
    pub(crate) l2_f16: unsafe fn(&[f32], &[f16]) -> f32,
    pub(crate) dot_i8: unsafe fn(&[i8], &[i8]) -> i32,
    pub(crate) dot_i16_i8: unsafe fn(&[i16], &[i8]) -> i32,
    pub(crate) dot4_i16_i8: unsafe fn(&[i16], [&[i8]; 4]) -> [i32; 4],
    pub(crate) neighbours: unsafe fn(&[u8], &[u8], &[f16], &[f16], Terms, &mut [f32; LANES]) -> u32,
    pub(crate) tables: unsafe fn(&[f32], &mut [u8]) -> TableScale,
    pub(crate) to_i16: unsafe fn(&[f32], f32, &mut [i16]) -> f32,
    pub(crate) residual: unsafe fn(&[f32], &[f32], &mut [u8]) -> Residual,
    pub(crate) dot4: unsafe fn(&[f32], [&[f32]; 4]) -> [f32; 4],
    pub(crate) l2_4: unsafe fn(&[f32], [&[f32]; 4]) -> [f32; 4],
    pub(crate) dot4_f16: unsafe fn(&[f32], [&[f16]; 4]) -> [f32; 4],
    pub(crate) l2_4_f16: unsafe fn(&[f32], [&[f16]; 4]) -> [f32; 4],
    pub(crate) dot_tile: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
    pub(crate) l2_tile: unsafe fn(&[f32], &[f32], usize, &mut [f32]),
    pub(crate) dot_tile_f16: unsafe fn(&[f32], &[f16], usize, &mut [f32]),
    pub(crate) l2_tile_f16: unsafe fn(&[f32], &[f16], usize, &mut [f32]),
    pub(crate) sliver_sums: unsafe fn(&[f32], &[f32], &[f32], usize, &mut [f32]),
    pub(crate) sliver_reach: unsafe fn([&[f32]; 2], [&[f32]; 2], f32, usize, &mut [u32]),
    pub(crate) sum_of_squares: unsafe fn(&[f32]) -> f32,
    pub(crate) to_f16: unsafe fn(&[f32], &mut [f16]),
    pub(crate) to_f32: unsafe fn(&[f16], &mut [f32]),
    pub(crate) hadamard: unsafe fn(&mut [f32], &[f32]),
    pub(crate) columns: Columns,
    pub(crate) position_of_max: unsafe fn(&[f32]) -> usize,
    pub(crate) scan: unsafe fn(&[u8], &[u8], &mut [u32; ROWS]),
    pub(crate) dot_planes: unsafe fn(&[i8], &[u8]) -> i32,
    pub(crate) dot4_signs: unsafe fn(&[i8], [&[u8]; 4]) -> [i32; 4],
    pub(crate) dot_fives: unsafe fn(&[i8], &[u8], &[u8]) -> i32,
    pub(crate) resample_u8: unsafe fn(&[u8], [usize; 3], Taps, &mut [u8]),
    pub(crate) resample_f32: unsafe fn(&[f32], [usize; 3], Taps<f32>, &mut [f32]),
    pub(crate) all_finite: unsafe fn(&[f32]) -> bool,
    pub(crate) all_finite_f16: unsafe fn(&[f16]) -> bool,
}

pub(crate) static SCALAR: Table = Table {
    level: Level::Scalar,
    dot: scalar::dot,
    l2: scalar::l2,
    dot_f16: scalar::dot_f16,
    l2_f16: scalar::l2_f16,
    dot_i8: scalar::dot_i8,
    dot_i16_i8: scalar::dot_i16_i8,
    dot4_i16_i8: scalar::dot4_i16_i8,
    neighbours: scalar::neighbours,
    tables: scalar::tables,
    to_i16: scalar::to_i16,
    residual: scalar::residual,
    dot4: scalar::dot4,
    l2_4: scalar::l2_4,
    dot4_f16: scalar::dot4_f16,
    l2_4_f16: scalar::l2_4_f16,
    dot_tile: scalar::dot_tile,
    l2_tile: scalar::l2_tile,
    dot_tile_f16: scalar::dot_tile_f16,
    l2_tile_f16: scalar::l2_tile_f16,
    sliver_sums: scalar::sliver_sums,
    sliver_reach: scalar::sliver_reach,
    sum_of_squares: scalar::sum_of_squares,
    to_f16: scalar::to_f16,
    to_f32: scalar::to_f32,
    hadamard: scalar::hadamard,
    columns: scalar::columns,
    position_of_max: scalar::position_of_max,
    scan: scalar::scan,
    dot_planes: scalar::dot_planes,
    dot4_signs: scalar::dot4_signs,
    dot_fives: scalar::dot_fives,
    resample_u8: scalar::resample,
    resample_f32: scalar::resample,
    all_finite: scalar::all_finite,
    all_finite_f16: scalar::all_finite_f16,
};

/// Compiles every kernel for one instruction set and makes its table, `TABLE`.
///
/// `parts` is the number of registers of 32 lanes, `four_rows` how many of them one query against
/// four rows carries at once, `tile` the same for tiles with the queries and rows of one group.
macro_rules! instantiate {
    (
        level: $level:ident,
        token: $token:expr,
        features: $features:literal,
        parts: $parts:literal,
        dot_i8: $dot_i8:path,
        scan: $scan:path,
        dot_planes: $dot_planes:path,
        dot_i16_i8: $dot_i16_i8:path,
        dot4_i16_i8: $dot4_i16_i8:path,
        dot4_signs: $dot4_signs:path,
        dot_fives: $dot_fives:path,
        look_up: $look_up:path,
        four_rows: $four:literal,
        tile: ($carried:literal, $queries:literal, $rows:literal),
        sliver_rows: $sliver_rows:literal,
    ) => {
        mod compiled {
            use half::f16;

            use super::*;
            use crate::codes;
            use crate::hadamard::signed_transform;
            use crate::lanes::{self, Dot, L2, LANES, pairs};
            use crate::neighbours::{self, Residual, TableScale, Terms};
            use crate::resample::{self, Taps};
            use crate::sliver;
            use crate::table::instantiate;
            use crate::tile::tile;

            pub(super) const N: usize = $parts;

            instantiate!(@functions $features, $token;
                fn dot(a: &[f32], b: &[f32]) -> f32 {
                    simd => pairs::<_, Dot, f32, N, N, 1, 1>(simd, [a], [b])[0][0]
                }
                fn l2(a: &[f32], b: &[f32]) -> f32 {
                    simd => pairs::<_, L2, f32, N, N, 1, 1>(simd, [a], [b])[0][0]
                }
                fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
                    simd => pairs::<_, Dot, f16, N, N, 1, 1>(simd, [a], [b])[0][0]
                }
                fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
                    simd => pairs::<_, L2, f16, N, N, 1, 1>(simd, [a], [b])[0][0]
                }
                fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
                    simd => $dot_i8(simd, a, b)
                }
                fn dot_i16_i8(query: &[i16], row: &[i8]) -> i32 {
                    simd => $dot_i16_i8(simd, query, row)
                }
                fn dot4_i16_i8(query: &[i16], rows: [&[i8]; 4]) -> [i32; 4] {
                    simd => $dot4_i16_i8(simd, query, rows)
                }
                fn neighbours(
                    codes: &[u8],
                    tables: &[u8],
                    centres: &[f16],
                    slopes: &[f16],
                    terms: Terms,
                    out: &mut [f32; LANES]
                ) -> u32 {
                    simd => {
                        let sums = $look_up(simd, codes, tables);
                        neighbours::estimates::<_, N>(simd, &sums, centres, slopes, terms, out)
                    }
                }
                fn tables(query: &[f32], out: &mut [u8]) -> TableScale {
                    _simd => neighbours::tables(query, out)
                }
                fn to_i16(values: &[f32], widest: f32, out: &mut [i16]) -> f32 {
                    _simd => neighbours::to_i16(values, widest, out)
                }
                fn residual(from: &[f32], to: &[f32], signs: &mut [u8]) -> Residual {
                    _simd => neighbours::residual(from, to, signs)
                }
                fn dot4(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
                    simd => pairs::<_, Dot, f32, N, $four, 1, 4>(simd, [query], rows)[0]
                }
                fn l2_4(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
                    simd => pairs::<_, L2, f32, N, $four, 1, 4>(simd, [query], rows)[0]
                }
                fn dot4_f16(query: &[f32], rows: [&[f16]; 4]) -> [f32; 4] {
                    simd => pairs::<_, Dot, f16, N, $four, 1, 4>(simd, [query], rows)[0]
                }
                fn l2_4_f16(query: &[f32], rows: [&[f16]; 4]) -> [f32; 4] {
                    simd => pairs::<_, L2, f16, N, $four, 1, 4>(simd, [query], rows)[0]
                }
                fn dot_tile(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) -> () {
                    simd => tile::<_, Dot, f32, N, $carried, $four, $queries, $rows>(simd, queries, rows, dim, out)
                }
                fn l2_tile(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) -> () {
                    simd => tile::<_, L2, f32, N, $carried, $four, $queries, $rows>(simd, queries, rows, dim, out)
                }
                fn dot_tile_f16(queries: &[f32], rows: &[f16], dim: usize, out: &mut [f32]) -> () {
                    simd => tile::<_, Dot, f16, N, $carried, $four, $queries, $rows>(simd, queries, rows, dim, out)
                }
                fn l2_tile_f16(queries: &[f32], rows: &[f16], dim: usize, out: &mut [f32]) -> () {
                    simd => tile::<_, L2, f16, N, $carried, $four, $queries, $rows>(simd, queries, rows, dim, out)
                }
                fn sliver_sums(rows: &[f32], slivers: &[f32], terms: &[f32], dim: usize, out: &mut [f32]) -> () {
                    simd => sliver::sums::<_, N, $sliver_rows>(simd, rows, slivers, terms, dim, out)
                }
                fn sliver_reach(
                    rows: [&[f32]; 2],
                    slivers: [&[f32]; 2],
                    floor: f32,
                    dim: usize,
                    out: &mut [u32]
                ) -> () {
                    simd => sliver::reach::<_, N, $sliver_rows>(simd, rows, slivers, floor, dim, out)
                }
                fn sum_of_squares(a: &[f32]) -> f32 {
                    simd => pairs::<_, Dot, f32, N, N, 1, 1>(simd, [a], [a])[0][0]
                }
                fn to_f16(from: &[f32], to: &mut [f16]) -> () {
                    simd => lanes::narrow::<_, N>(simd, from, to)
                }
                fn to_f32(from: &[f16], to: &mut [f32]) -> () {
                    simd => lanes::widen::<_, N>(simd, from, to)
                }
                fn hadamard(values: &mut [f32], factors: &[f32]) -> () {
                    simd => signed_transform::<_, N>(simd, values, factors)
                }
                fn columns(vector: &[f32], matrix: &[f32], starts: &[f32], out: &mut [f32]) -> () {
                    simd => codes::columns::<_, N>(simd, vector, matrix, starts, out)
                }
                fn position_of_max(values: &[f32]) -> usize {
                    _simd => codes::position_of_max(values)
                }
                fn scan(tables: &[u8], codes: &[u8], sums: &mut [u32; ROWS]) -> () {
                    simd => $scan(simd, tables, codes, sums)
                }
                fn dot_planes(query: &[i8], planes: &[u8]) -> i32 {
                    simd => $dot_planes(simd, query, planes)
                }
                fn dot4_signs(query: &[i8], rows: [&[u8]; 4]) -> [i32; 4] {
                    simd => $dot4_signs(simd, query, rows)
                }
                fn dot_fives(query: &[i8], signs: &[u8], rest: &[u8]) -> i32 {
                    simd => $dot_fives(simd, query, signs, rest)
                }
                fn resample_u8(
                    picture: &[u8], shape: [usize; 3], taps: Taps, out: &mut [u8]
                ) -> () {
                    _simd => resample::along::<_, 64, 16>(picture, shape, taps, out)
                }
                fn resample_f32(
                    picture: &[f32], shape: [usize; 3], taps: Taps<f32>, out: &mut [f32]
                ) -> () {
                    _simd => resample::along::<_, 32, 8>(picture, shape, taps, out)
                }
                fn all_finite(a: &[f32]) -> bool {
                    _simd => lanes::all_finite(a)
                }
                fn all_finite_f16(a: &[f16]) -> bool {
                    _simd => lanes::all_finite_f16(a)
                }
            );
        }

        pub(crate) static TABLE: crate::table::Table = crate::table::Table {
            level: crate::cpu::Level::$level,
            dot: compiled::dot,
            l2: compiled::l2,
            dot_f16: compiled::dot_f16,
            l2_f16: compiled::l2_f16,
            dot_i8: compiled::dot_i8,
            dot_i16_i8: compiled::dot_i16_i8,
            dot4_i16_i8: compiled::dot4_i16_i8,
            neighbours: compiled::neighbours,
            tables: compiled::tables,
            to_i16: compiled::to_i16,
            residual: compiled::residual,
            dot4: compiled::dot4,
            l2_4: compiled::l2_4,
            dot4_f16: compiled::dot4_f16,
            l2_4_f16: compiled::l2_4_f16,
            dot_tile: compiled::dot_tile,
            l2_tile: compiled::l2_tile,
            dot_tile_f16: compiled::dot_tile_f16,
            l2_tile_f16: compiled::l2_tile_f16,
            sliver_sums: compiled::sliver_sums,
            sliver_reach: compiled::sliver_reach,
            sum_of_squares: compiled::sum_of_squares,
            to_f16: compiled::to_f16,
            to_f32: compiled::to_f32,
            hadamard: compiled::hadamard,
            columns: compiled::columns,
            position_of_max: compiled::position_of_max,
            scan: compiled::scan,
            dot_planes: compiled::dot_planes,
            dot4_signs: compiled::dot4_signs,
            dot_fives: compiled::dot_fives,
            resample_u8: compiled::resample_u8,
            resample_f32: compiled::resample_f32,
            all_finite: compiled::all_finite,
            all_finite_f16: compiled::all_finite_f16,
        };
    };
    (@functions $features:literal, $token:expr;
        $(fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty {
            $simd:ident => $body:expr
        })*
    ) => {
        $(
            /// # Safety
            ///
            /// The CPU must have this level.
            #[target_feature(enable = $features)]
            pub(super) unsafe fn $name($($argument: $type),*) -> $result {
                // SAFETY: the caller promises that the CPU has this level.
                let $simd = unsafe { $token };
                $body
            }
        )*
    };
}
pub(crate) use instantiate;
