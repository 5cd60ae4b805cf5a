//! Eigenvectors of a symmetric matrix, for rotations that follow the data.
//!
//! Householder's reduction to three diagonals, then QL steps with implicit shifts (Bowdler, Martin, Reinsch and
//! Wilkinson, "The QR and QL algorithms for symmetric matrices", 1968). Plain f64 in one order: the same bits everywhere.

/// Steps for one eigenvalue; two are usual.
const MOST_STEPS: usize = 60;

/// Eigenvalues, and the eigenvectors one after another in the same order, which is none in particular.
pub fn eigen(mut matrix: Vec<f64>, size: usize) -> (Vec<f64>, Vec<f64>) {
    let (mut diagonal, mut beside, mut vectors) = tridiagonal(&mut matrix, size);
    for first in 0..size {
        for _ in 0..MOST_STEPS {
            let mut last = first;
            while last + 1 < size {
                let sum = diagonal[last].abs() + diagonal[last + 1].abs();
                if beside[last].abs() <= f64::EPSILON * sum {
                    break;
                }
                last += 1;
            }
            if last == first {
                break;
            }
            ql_step(&mut diagonal, &mut beside, &mut vectors, size, first, last);
        }
    }
    (diagonal, vectors)
}

/// Diagonal, what lies beside it (one shorter, then 0), and the rows of the transposed transformation.
fn tridiagonal(matrix: &mut [f64], size: usize) -> (Vec<f64>, Vec<f64>, Vec<f64>) {
    let mut beside = vec![0.0; size];
    let mut reflectors = Vec::new();
    for k in 0..size.saturating_sub(1) {
        let rest = size - k - 1;
        let mut v: Vec<f64> = (k + 1..size).map(|i| matrix[i * size + k]).collect();
        let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        let target = if v[0] > 0.0 { -length } else { length };
        beside[k] = target;
        v[0] -= target;
        let norm = v.iter().map(|x| x * x).sum::<f64>().sqrt();
        if norm > 0.0 {
            v.iter_mut().for_each(|x| *x /= norm);
            let row = |i: usize| (k + 1 + i) * size + k + 1;
            let mut p: Vec<f64> = (0..rest)
                .map(|i| product(&matrix[row(i)..][..rest], &v))
                .collect();
            let along = product(&p, &v);
            p.iter_mut().zip(&v).for_each(|(p, v)| *p -= along * v);
            for i in 0..rest {
                let (v_i, p_i) = (2.0 * v[i], 2.0 * p[i]);
                let line = &mut matrix[row(i)..][..rest];
                for (x, (v, p)) in line.iter_mut().zip(v.iter().zip(&p)) {
                    *x -= v_i * p + p_i * v;
                }
            }
        }
        reflectors.push(v);
    }
    let diagonal = (0..size).map(|i| matrix[i * size + i]).collect();

    // Of the product of all reflections the transpose is kept, because steps then turn whole rows.
    let mut vectors = vec![0.0; size * size];
    for i in 0..size {
        vectors[i * size + i] = 1.0;
    }
    for (k, v) in reflectors.iter().enumerate().rev() {
        for line in vectors.chunks_exact_mut(size).skip(k + 1) {
            let part = &mut line[k + 1..];
            let along = 2.0 * product(part, v);
            part.iter_mut().zip(v).for_each(|(x, v)| *x -= along * v);
        }
    }
    (diagonal, beside, vectors)
}

fn product(a: &[f64], b: &[f64]) -> f64 {
    let (blocks_a, tail_a) = a.as_chunks::<4>();
    let (blocks_b, tail_b) = b.as_chunks::<4>();
    let mut lanes = [0.0; 4];
    for (a, b) in blocks_a.iter().zip(blocks_b) {
        for i in 0..4 {
            lanes[i] += a[i] * b[i];
        }
    }
    let tail: f64 = tail_a.iter().zip(tail_b).map(|(a, b)| a * b).sum();
    (lanes[0] + lanes[2]) + (lanes[1] + lanes[3]) + tail
}

fn ql_step(
    diagonal: &mut [f64],
    beside: &mut [f64],
    vectors: &mut [f64],
    size: usize,
    first: usize,
    last: usize,
) {
    let half = (diagonal[first + 1] - diagonal[first]) / (2.0 * beside[first]);
    let root = (half * half + 1.0).sqrt();
    let mut g = diagonal[last] - diagonal[first]
        + beside[first] / (half + if half < 0.0 { -root } else { root });
    let (mut sine, mut cosine, mut shift) = (1.0, 1.0, 0.0);
    for i in (first..last).rev() {
        let f = sine * beside[i];
        let b = cosine * beside[i];
        let r = (f * f + g * g).sqrt();
        beside[i + 1] = r;
        if r == 0.0 {
            diagonal[i + 1] -= shift;
            beside[last] = 0.0;
            return;
        }
        (sine, cosine) = (f / r, g / r);
        g = diagonal[i + 1] - shift;
        let turned = (diagonal[i] - g) * sine + 2.0 * cosine * b;
        shift = sine * turned;
        diagonal[i + 1] = g + shift;
        g = cosine * turned - b;
        let (low, high) = vectors[i * size..][..2 * size].split_at_mut(size);
        for (low, high) in low.iter_mut().zip(high) {
            let above = *high;
            *high = sine * *low + cosine * above;
            *low = cosine * *low - sine * above;
        }
    }
    diagonal[first] -= shift;
    beside[first] = g;
    beside[last] = 0.0;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::Stream;

    #[test]
    fn vectors_are_orthogonal_and_only_stretched_by_the_matrix() {
        for size in [1, 2, 3, 5, 20, 64, 130] {
            for rank in [0, 1, size / 2, size] {
                let mut stream = Stream::new(0, 0, (size * 1000 + rank) as u64);
                let mut matrix = vec![0.0; size * size];
                for _ in 0..rank {
                    let v: Vec<f64> = (0..size)
                        .map(|_| (stream.next_u64() >> 40) as f64 / 8_388_608.0 - 1.0)
                        .collect();
                    for i in 0..size * size {
                        matrix[i] += v[i / size] * v[i % size];
                    }
                }
                let (values, vectors) = eigen(matrix.clone(), size);
                let largest = values.iter().fold(1e-12_f64, |a, b| a.max(b.abs()));
                for (a, va) in vectors.chunks_exact(size).enumerate() {
                    for (b, vb) in vectors.chunks_exact(size).enumerate() {
                        let wanted = f64::from(u8::from(a == b));
                        assert!((product(va, vb) - wanted).abs() < 1e-10, "{size}, {rank}");
                    }
                    for (i, line) in matrix.chunks_exact(size).enumerate() {
                        let off = product(line, va) - values[a] * va[i];
                        assert!(off.abs() < 1e-10 * largest, "{size}, {rank}: {off}");
                    }
                }
            }
        }
    }
}
