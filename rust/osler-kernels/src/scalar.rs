//! The meaning of every kernel, slow and plain: the oracle of the tests and the level that runs
//! everywhere. Reads and writes its arguments only.
//!
//! A sum of `f32` is kept in 32 lanes: term `i` is added to lane `i % 32` by a fused multiply-add.
//! The last round is filled up with zeros, which are added like any other term (this turns a lane
//! that underflowed to `-0.0` into `+0.0`, so it is part of the meaning). Then lane `i` takes lane
//! `i + 16`, then `i + 8`, `i + 4`, `i + 2`, `i + 1`.

use half::f16;

use crate::codes::{GROUP, ROWS};
use crate::lanes::LANES;
use crate::neighbours::{self, Residual, TableScale, Terms, look_up};
use crate::resample::{Sample, Taps};
use crate::signs::unpack_fives;
use crate::sliver::SLIVER;

pub(crate) fn dot(a: &[f32], b: &[f32]) -> f32 {
    sum_of_products(a.len(), |i| (a[i], b[i]))
}

pub(crate) fn l2(a: &[f32], b: &[f32]) -> f32 {
    sum_of_products(a.len(), |i| (a[i] - b[i], a[i] - b[i]))
}

pub(crate) fn dot_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of_products(a.len(), |i| (a[i], b[i].to_f32()))
}

pub(crate) fn l2_f16(a: &[f32], b: &[f16]) -> f32 {
    sum_of_products(a.len(), |i| (a[i] - b[i].to_f32(), a[i] - b[i].to_f32()))
}

pub(crate) fn sum_of_squares(a: &[f32]) -> f32 {
    sum_of_products(a.len(), |i| (a[i], a[i]))
}

pub(crate) fn dot_i8(a: &[i8], b: &[i8]) -> i32 {
    let mut sum = 0;
    for i in 0..a.len() {
        sum += i32::from(a[i]) * i32::from(b[i]);
    }
    sum
}

pub(crate) fn dot_i16_i8(query: &[i16], row: &[i8]) -> i32 {
    let mut sum = 0;
    for i in 0..query.len().min(row.len()) {
        sum += i32::from(query[i]) * i32::from(row[i]);
    }
    sum
}

pub(crate) fn dot4_i16_i8(query: &[i16], rows: [&[i8]; 4]) -> [i32; 4] {
    rows.map(|row| dot_i16_i8(query, row))
}

pub(crate) fn neighbours(
    codes: &[u8],
    tables: &[u8],
    centres: &[f16],
    slopes: &[f16],
    terms: Terms,
    out: &mut [f32; LANES],
) -> u32 {
    let sums = look_up(codes, tables);
    let mut mask = 0;
    for i in 0..centres.len() {
        let inner = terms.scale.step.mul_add(sums[i] as f32, terms.scale.shift);
        let middle = terms.base + centres[i].to_f32();
        out[i] = slopes[i].to_f32().mul_add(-inner, middle);
        mask |= u32::from(out[i] < terms.limit) << i;
    }
    mask
}

pub(crate) fn tables(query: &[f32], out: &mut [u8]) -> TableScale {
    neighbours::tables(query, out)
}

pub(crate) fn to_i16(values: &[f32], widest: f32, out: &mut [i16]) -> f32 {
    neighbours::to_i16(values, widest, out)
}

pub(crate) fn residual(from: &[f32], to: &[f32], signs: &mut [u8]) -> Residual {
    neighbours::residual(from, to, signs)
}

pub(crate) fn dot4(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    rows.map(|row| dot(query, row))
}

pub(crate) fn l2_4(query: &[f32], rows: [&[f32]; 4]) -> [f32; 4] {
    rows.map(|row| l2(query, row))
}

pub(crate) fn dot4_f16(query: &[f32], rows: [&[f16]; 4]) -> [f32; 4] {
    rows.map(|row| dot_f16(query, row))
}

pub(crate) fn l2_4_f16(query: &[f32], rows: [&[f16]; 4]) -> [f32; 4] {
    rows.map(|row| l2_f16(query, row))
}

pub(crate) fn dot_tile(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    every_pair(queries, rows, dim, out, dot);
}

pub(crate) fn l2_tile(queries: &[f32], rows: &[f32], dim: usize, out: &mut [f32]) {
    every_pair(queries, rows, dim, out, l2);
}

pub(crate) fn dot_tile_f16(queries: &[f32], rows: &[f16], dim: usize, out: &mut [f32]) {
    every_pair(queries, rows, dim, out, dot_f16);
}

pub(crate) fn l2_tile_f16(queries: &[f32], rows: &[f16], dim: usize, out: &mut [f32]) {
    every_pair(queries, rows, dim, out, l2_f16);
}

pub(crate) fn to_f16(from: &[f32], to: &mut [f16]) {
    for i in 0..from.len() {
        to[i] = f16::from_f32(from[i]);
    }
}

pub(crate) fn to_f32(from: &[f16], to: &mut [f32]) {
    for i in 0..from.len() {
        to[i] = from[i].to_f32();
    }
}

/// Factors, then sums and differences over strides 1, 2, 4, ...
pub(crate) fn hadamard(values: &mut [f32], factors: &[f32]) {
    for i in 0..values.len() {
        values[i] *= factors[i];
    }
    let mut stride = 1;
    while stride < values.len() {
        for i in 0..values.len() {
            if i & stride == 0 {
                let (a, b) = (values[i], values[i + stride]);
                values[i] = a + b;
                values[i + stride] = a - b;
            }
        }
        stride *= 2;
    }
}

/// Every column's start, then value by value a fused multiply-add.
pub(crate) fn columns(vector: &[f32], columns: &[f32], starts: &[f32], out: &mut [f32]) {
    out.copy_from_slice(starts);
    for i in 0..vector.len() {
        for j in 0..out.len() {
            out[j] = vector[i].mul_add(columns[i * out.len() + j], out[j]);
        }
    }
}

/// First position of the greatest value; 0 if there is none, or none above minus infinity.
pub(crate) fn position_of_max(values: &[f32]) -> usize {
    let mut best = 0;
    for i in 0..values.len() {
        if values[i] > values[best] || values[best].is_nan() {
            best = i;
        }
    }
    best
}

/// Sums along the middle axis: see [`Taps`].
pub(crate) fn resample<T: Sample>(
    picture: &[T],
    [outer, length, inner]: [usize; 3],
    taps: Taps<T>,
    out: &mut [T],
) {
    let (results, width) = (taps.first.len(), taps.width());
    for y in 0..outer {
        for i in 0..results {
            for x in 0..inner {
                let mut sum = T::start(taps.bits);
                for t in 0..width {
                    let place = y * length + taps.first[i] as usize + t;
                    sum = T::add(sum, picture[place * inner + x], taps.weights[width * i + t]);
                }
                out[(y * results + i) * inner + x] = T::end(sum, taps.bits);
            }
        }
    }
}

/// Adds to each row's sum, for each group, the table's byte at the row's half-byte.
pub(crate) fn scan(tables: &[u8], codes: &[u8], sums: &mut [u32; ROWS]) {
    let groups = tables.chunks_exact(GROUP).zip(codes.chunks_exact(GROUP));
    for (table, codes) in groups {
        for i in 0..GROUP {
            sums[i] += u32::from(table[usize::from(codes[i] & 15)]);
            sums[i + GROUP] += u32::from(table[usize::from(codes[i] >> 4)]);
        }
    }
}

/// Sum of query value times the number whose bits lie in the planes, the highest in the first.
pub(crate) fn dot_planes(query: &[i8], planes: &[u8]) -> i32 {
    let mut sum = 0;
    for i in 0..query.len() {
        let mut value = 0;
        for plane in planes.chunks_exact(query.len() / 8) {
            value = 2 * value + i32::from(plane[i / 8] >> (i % 8) & 1);
        }
        sum += i32::from(query[i]) * value;
    }
    sum
}

/// Sums of the query's values at the dimensions whose bits are set; see `signs.rs` for their order.
pub(crate) fn dot4_signs(query: &[i8], signs: [&[u8]; 4]) -> [i32; 4] {
    signs.map(|signs| {
        let set = |i: &usize| signs[i % signs.len()] >> (i / signs.len()) & 1 == 1;
        let positions = (0..query.len()).filter(set);
        positions.map(|i| i32::from(query[i])).sum()
    })
}

/// Inner product with the levels, from 0 to 31, of a row of five bits.
pub(crate) fn dot_fives(query: &[i8], signs: &[u8], rest: &[u8]) -> i32 {
    let mut row = vec![0; query.len()];
    unpack_fives(signs, rest, &mut row);
    let products = query.iter().zip(&row);
    products
        .map(|(&q, &x)| i32::from(q) * ((i32::from(x) + 31) / 2))
        .sum()
}

pub(crate) fn all_finite(a: &[f32]) -> bool {
    a.iter().all(|value| value.is_finite())
}

pub(crate) fn all_finite_f16(a: &[f16]) -> bool {
    a.iter().all(|value| value.is_finite())
}

pub(crate) fn sliver_sums(
    rows: &[f32],
    slivers: &[f32],
    terms: &[f32],
    dim: usize,
    out: &mut [f32],
) {
    let count = terms.len();
    for (row, out) in rows
        .chunks_exact(dim)
        .zip(out.chunks_exact_mut(count.max(1)))
    {
        for i in 0..count {
            out[i] = sliver_sum(row, slivers, i, terms[i]);
        }
    }
}

pub(crate) fn sliver_reach(
    [rows, row_terms]: [&[f32]; 2],
    [slivers, terms]: [&[f32]; 2],
    floor: f32,
    dim: usize,
    out: &mut [u32],
) {
    let count = terms.len() / SLIVER;
    out.fill(0);
    for (r, row) in rows.chunks_exact(dim).enumerate() {
        for i in 0..terms.len() {
            let below = sliver_sum(row, slivers, i, terms[i] + row_terms[r]) < floor;
            out[r * count + i / SLIVER] |= u32::from(!below) << (i % SLIVER);
        }
    }
}

/// Unlike [`dot`], one sum in the order of the dimensions, which begins with `first`.
fn sliver_sum(row: &[f32], slivers: &[f32], i: usize, first: f32) -> f32 {
    let sliver = &slivers[i / SLIVER * SLIVER * row.len()..];
    let mut sum = first;
    for (d, value) in row.iter().enumerate() {
        sum = value.mul_add(sliver[d * SLIVER + i % SLIVER], sum);
    }
    sum
}

fn sum_of_products(len: usize, factors: impl Fn(usize) -> (f32, f32)) -> f32 {
    let mut lanes = [0.0f32; LANES];
    for i in 0..len.next_multiple_of(LANES) {
        let (a, b) = if i < len { factors(i) } else { (0.0, 0.0) };
        lanes[i % LANES] = a.mul_add(b, lanes[i % LANES]);
    }
    for width in [16, 8, 4, 2, 1] {
        for i in 0..width {
            lanes[i] += lanes[i + width];
        }
    }
    lanes[0]
}

fn every_pair<T>(
    queries: &[f32],
    rows: &[T],
    dim: usize,
    out: &mut [f32],
    kernel: impl Fn(&[f32], &[T]) -> f32,
) {
    let mut pair = 0;
    for query in queries.chunks_exact(dim) {
        for row in rows.chunks_exact(dim) {
            out[pair] = kernel(query, row);
            pair += 1;
        }
    }
}
