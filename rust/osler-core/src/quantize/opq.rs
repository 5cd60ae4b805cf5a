//! The rotation before product quantization: directions are dealt to parts so that all parts vary alike.
//!
//! Works on slices; runs on the threads that it is called on. Ge, He, Ke and Sun, "Optimized product quantization for
//! approximate nearest neighbor search" (2013), Section 4: eigenvalue allocation, the parametric solution.

use rayon::prelude::*;

use super::eigen::eigen;

/// Rows whose products are added up in f32 before they are in f64.
const RUN: usize = 4096;

/// Rows that one task turns: no result depends on it.
const TASK_ROWS: usize = 256;

/// No rotation: `width` directions of `dim` values, of which the first are the axes and the others zero.
pub(super) fn identity(dim: usize, width: usize) -> Vec<f32> {
    let mut directions = vec![0.0; width * dim];
    for i in 0..dim {
        directions[i * dim + i] = 1.0;
    }
    directions
}

/// The directions, one after another, along which parts are independent and of like volume.
pub(super) fn allocate(residuals: &[f32], dim: usize, parts: usize) -> Vec<f32> {
    let (values, vectors) = eigen(covariance(residuals, dim), dim);
    let mut order: Vec<usize> = (0..dim).collect();
    order.sort_by(|&a, &b| values[b].total_cmp(&values[a]).then(a.cmp(&b)));
    let floor = values.iter().fold(f64::MIN_POSITIVE, |a, &b| a.max(b)) * 1e-9;

    let part = dim.div_ceil(parts);
    let mut filled = vec![0; parts];
    let mut volumes = vec![0.0_f64; parts];
    let mut directions = vec![0.0; parts * part * dim];
    for direction in order {
        // The smallest volume of the parts with room, the first of equals.
        let mut least = None;
        for m in (0..parts).filter(|&m| filled[m] < part) {
            if least.is_none_or(|least: usize| volumes[m] < volumes[least]) {
                least = Some(m);
            }
        }
        let Some(m) = least else { break };
        let place = (m * part + filled[m]) * dim;
        filled[m] += 1;
        volumes[m] += log_of_share(values[direction].max(floor), floor);
        let vector = &vectors[direction * dim..][..dim];
        for (value, &x) in directions[place..][..dim].iter_mut().zip(vector) {
            *value = x as f32;
        }
    }
    directions
}

/// Rows turned to the directions, one after another.
pub(super) fn rotate(rows: &[f32], dim: usize, directions: &[f32]) -> Vec<f32> {
    let width = directions.len() / dim;
    let mut out = vec![0.0; rows.len() / dim * width];
    rows.par_chunks(TASK_ROWS * dim)
        .zip(out.par_chunks_mut(TASK_ROWS * width))
        .for_each(|(rows, out)| osler_kernels::dot_tile(rows, directions, dim, out));
    out
}

/// Sums of products of every two values over all rows.
fn covariance(rows: &[f32], dim: usize) -> Vec<f64> {
    let mut sums = vec![0.0_f64; dim * dim];
    for run in rows.chunks(RUN * dim) {
        let count = run.len() / dim;
        let mut transposed = vec![0.0; run.len()];
        for (row, values) in run.chunks_exact(dim).enumerate() {
            for (i, &value) in values.iter().enumerate() {
                transposed[i * count + row] = value;
            }
        }
        sums.par_chunks_mut(8 * dim)
            .zip(transposed.par_chunks(8 * count))
            .for_each(|(sums, some)| {
                let mut products = vec![0.0; sums.len()];
                osler_kernels::dot_tile(some, &transposed, count, &mut products);
                for (sum, product) in sums.iter_mut().zip(products) {
                    *sum += f64::from(product);
                }
            });
    }
    sums
}

/// Logarithm to base 2 of how often `floor` fits `value`, by arithmetic alone: a library's differs between systems.
fn log_of_share(value: f64, floor: f64) -> f64 {
    let share = value / floor;
    let bits = share.to_bits();
    let exponent = (bits >> 52 & 0x7ff) as f64 - 1023.0;
    // Straight between powers of two: near enough to compare volumes.
    let mantissa = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3ff0_0000_0000_0000);
    exponent + mantissa - 1.0
}
