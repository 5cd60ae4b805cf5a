//! Speed of every kernel at every level this CPU has, on vectors that lie in the first cache.
//!
//! It isolates arithmetic from memory: the same few vectors are read again and again. Criterion's
//! element rate counts floating-point operations (two a term of an inner product, three of a squared
//! distance), so Gelem/s reads as GFLOP/s; conversions and checks count values. `tile` is to be
//! compared with `tile by single calls`, the same pairs through one call each.
//!
//! Run one group with `cargo bench --bench kernels -- "dot/384"`. Touches nothing but its own output.

use std::hint::black_box;
use std::time::Duration;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use half::f16;
use osler_kernels::{Kernels, Panels, SLIVER, Taps, levels};

const DIMS: [usize; 2] = [384, 512];

/// Vectors on each side of a tile: both sides together stay in the second cache.
const TILE: usize = 48;

/// Rows of a leaf of usual size.
const LEAF: usize = 224;

/// Distinct vectors a single-pair bench walks through: enough to defeat reuse of one result, few
/// enough for the first cache.
const ROWS: usize = 4;

struct Vectors {
    dim: usize,
    f32s: Vec<f32>,
    f16s: Vec<f16>,
    i8s: Vec<i8>,
}

impl Vectors {
    fn new(count: usize, dim: usize, seed: u64) -> Vectors {
        let mut state = seed;
        let mut f32s = vec![0.0; count * dim];
        for value in &mut f32s {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            *value = ((state >> 40) as f32) / 8_388_608.0 - 1.0;
        }
        let mut f16s = vec![f16::ZERO; count * dim];
        osler_kernels::to_f16(&f32s, &mut f16s);
        let i8s = f32s.iter().map(|value| (value * 127.0) as i8).collect();
        Vectors {
            dim,
            f32s,
            f16s,
            i8s,
        }
    }

    fn f32(&self, row: usize) -> &[f32] {
        &self.f32s[row * self.dim..][..self.dim]
    }

    fn f16(&self, row: usize) -> &[f16] {
        &self.f16s[row * self.dim..][..self.dim]
    }

    fn i8(&self, row: usize) -> &[i8] {
        &self.i8s[row * self.dim..][..self.dim]
    }
}

/// One kernel at every level: `call` does `operations` worth of work.
fn bench<R>(
    criterion: &mut Criterion,
    name: &str,
    dim: usize,
    operations: usize,
    mut call: impl FnMut(Kernels) -> R,
) {
    let mut group = criterion.benchmark_group(format!("{name}/{dim}"));
    group.throughput(Throughput::Elements(operations as u64));
    for &level in levels() {
        let kernels = Kernels::at(level).expect("a level of this CPU");
        group.bench_function(BenchmarkId::from_parameter(level.name()), |bencher| {
            bencher.iter(|| black_box(call(kernels)));
        });
    }
    group.finish();
}

fn pairs(criterion: &mut Criterion) {
    for dim in DIMS {
        let queries = Vectors::new(ROWS, dim, 1);
        let rows = Vectors::new(ROWS, dim, 2);
        let mut turn = 0;
        let mut next = || {
            turn = (turn + 1) % ROWS;
            turn
        };
        bench(criterion, "dot", dim, 2 * dim, |kernels| {
            kernels.dot(queries.f32(0), rows.f32(next()))
        });
        bench(criterion, "l2", dim, 3 * dim, |kernels| {
            kernels.l2(queries.f32(0), rows.f32(next()))
        });
        bench(criterion, "dot_f16", dim, 2 * dim, |kernels| {
            kernels.dot_f16(queries.f32(0), rows.f16(next()))
        });
        bench(criterion, "l2_f16", dim, 3 * dim, |kernels| {
            kernels.l2_f16(queries.f32(0), rows.f16(next()))
        });
        bench(criterion, "dot_i8", dim, 2 * dim, |kernels| {
            kernels.dot_i8(queries.i8(0), rows.i8(next()))
        });
        bench(criterion, "sum_of_squares", dim, 2 * dim, |kernels| {
            kernels.sum_of_squares(rows.f32(next()))
        });
        let four = [rows.i8(0), rows.i8(1), rows.i8(2), rows.i8(3)];
        bench(criterion, "dot4_i8", dim, 8 * dim, |kernels| {
            kernels.dot4_i8(queries.i8(next()), black_box(four))
        });
        let four = [rows.f32(0), rows.f32(1), rows.f32(2), rows.f32(3)];
        bench(criterion, "dot4", dim, 8 * dim, |kernels| {
            kernels.dot4(queries.f32(next()), black_box(four))
        });
        bench(criterion, "l2_4", dim, 12 * dim, |kernels| {
            kernels.l2_4(queries.f32(next()), black_box(four))
        });
        let four = [rows.f16(0), rows.f16(1), rows.f16(2), rows.f16(3)];
        bench(criterion, "dot4_f16", dim, 8 * dim, |kernels| {
            kernels.dot4_f16(queries.f32(next()), black_box(four))
        });
        bench(criterion, "l2_4_f16", dim, 12 * dim, |kernels| {
            kernels.l2_4_f16(queries.f32(next()), black_box(four))
        });
    }
}

fn tiles(criterion: &mut Criterion) {
    for dim in DIMS {
        let queries = Vectors::new(TILE, dim, 3);
        let rows = Vectors::new(TILE, dim, 4);
        let mut out = vec![0.0; TILE * TILE];
        let terms = TILE * TILE * dim;
        bench(criterion, "dot_tile", dim, 2 * terms, |kernels| {
            kernels.dot_tile(&queries.f32s, &rows.f32s, dim, &mut out);
        });
        bench(criterion, "l2_tile", dim, 3 * terms, |kernels| {
            kernels.l2_tile(&queries.f32s, &rows.f32s, dim, &mut out);
        });
        bench(criterion, "dot_tile_f16", dim, 2 * terms, |kernels| {
            kernels.dot_tile_f16(&queries.f32s, &rows.f16s, dim, &mut out);
        });
        bench(criterion, "l2_tile_f16", dim, 3 * terms, |kernels| {
            kernels.l2_tile_f16(&queries.f32s, &rows.f16s, dim, &mut out);
        });
        bench(
            criterion,
            "dot_tile by single calls",
            dim,
            2 * terms,
            |kernels| {
                for query in 0..TILE {
                    for row in 0..TILE {
                        out[query * TILE + row] = kernels.dot(queries.f32(query), rows.f32(row));
                    }
                }
            },
        );
        bench(
            criterion,
            "dot_tile_f16 by single calls",
            dim,
            2 * terms,
            |kernels| {
                for query in 0..TILE {
                    for row in 0..TILE {
                        out[query * TILE + row] =
                            kernels.dot_f16(queries.f32(query), rows.f16(row));
                    }
                }
            },
        );
    }
}

fn panels(criterion: &mut Criterion) {
    for dim in DIMS {
        let rows = Vectors::new(LEAF, dim, 6);
        let with_scales = |i: usize| (rows.i8(i), 1.0);
        let mut leaf = Panels::default();
        let mut keys = Vec::new();
        bench(criterion, "fill_panels", dim, LEAF * dim, |kernels| {
            kernels.fill_panels(&mut leaf, dim, (0..LEAF).map(with_scales));
        });
        let pairs = LEAF * (LEAF - 1) / 2;
        bench(
            criterion,
            "nearest_within",
            dim,
            2 * pairs * dim,
            |kernels| {
                kernels.nearest_within(&leaf, &mut keys);
            },
        );
        let pairs = LEAF * LEAF;
        bench(
            criterion,
            "nearest_among",
            dim,
            2 * pairs * dim,
            |kernels| {
                kernels.nearest_among::<8>(&leaf, &leaf, &mut keys);
            },
        );
        let mut sum = 0;
        bench(
            criterion,
            "nearest_among by single calls",
            dim,
            2 * pairs * dim,
            |kernels| {
                for a in 0..LEAF {
                    for b in 0..LEAF {
                        sum ^= kernels.dot_i8(rows.i8(a), rows.i8(b));
                    }
                }
                sum
            },
        );
    }
}

/// The short vectors of a filter; `dot_tile` on them is what a sliver must beat.
fn slivers(criterion: &mut Criterion) {
    let dim = 32;
    let rows = Vectors::new(TILE, dim, 6);
    let others = Vectors::new(2 * TILE / SLIVER * SLIVER, dim, 7);
    let count = others.f32s.len() / dim;
    let terms = vec![0.5; count];
    let row_terms = vec![0.25; TILE];
    let mut out = vec![0.0; TILE * count];
    let mut masks = vec![0; out.len() / SLIVER];
    let work = 2 * out.len() * dim;
    bench(criterion, "sliver_sums", dim, work, |kernels| {
        kernels.sliver_sums(&rows.f32s, &others.f32s, &terms, dim, &mut out);
    });
    bench(criterion, "sliver_reach", dim, work, |kernels| {
        let (left, right) = ([&*rows.f32s, &*row_terms], [&*others.f32s, &*terms]);
        kernels.sliver_reach(left, right, 3.0, dim, &mut masks);
    });
    bench(criterion, "dot_tile", dim, work, |kernels| {
        kernels.dot_tile(&rows.f32s, &others.f32s, dim, &mut out);
    });
}

fn values(criterion: &mut Criterion) {
    for dim in DIMS {
        let vectors = Vectors::new(1, dim, 5);
        let mut f16s = vec![f16::ZERO; dim];
        let mut f32s = vec![0.0; dim];
        bench(criterion, "to_f16", dim, dim, |kernels| {
            kernels.to_f16(black_box(vectors.f32(0)), &mut f16s);
        });
        bench(criterion, "to_f32", dim, dim, |kernels| {
            kernels.to_f32(black_box(vectors.f16(0)), &mut f32s);
        });
        bench(criterion, "all_finite", dim, dim, |kernels| {
            kernels.all_finite(black_box(vectors.f32(0)))
        });
        bench(criterion, "all_finite_f16", dim, dim, |kernels| {
            kernels.all_finite_f16(black_box(vectors.f16(0)))
        });
    }
}

fn rotations(criterion: &mut Criterion) {
    for dim in [256, 512, 1024] {
        let vectors = Vectors::new(1, dim, 6);
        let factors = vec![(dim as f32).sqrt().recip(); dim];
        let mut values = vectors.f32s;
        let operations = dim * (1 + dim.ilog2() as usize);
        bench(criterion, "hadamard", dim, operations, |kernels| {
            kernels.hadamard(&mut values, &factors);
        });
    }
}

/// What a row of codes costs. A scan is counted in half-byte codes, 32 rows at a time.
fn codes(criterion: &mut Criterion) {
    for (dim, count) in [(2, 16), (4, 256), (384, 256)] {
        let matrix = Vectors::new(dim, count, 7);
        let (vector, starts) = (Vectors::new(1, dim, 8).f32s, vec![0.0; count]);
        let mut out = vec![0.0; count];
        let operations = 2 * dim * count;
        bench(
            criterion,
            &format!("columns {dim}"),
            count,
            operations,
            |kernels| {
                kernels.columns(&vector, &matrix.f32s, &starts, &mut out);
            },
        );
        bench(
            criterion,
            &format!("position_of_max {dim}"),
            count,
            count,
            |kernels| kernels.position_of_max(&out),
        );
    }
    for dim in DIMS {
        let bytes = |count, seed| -> Vec<u8> {
            let values = Vectors::new(1, count, seed).i8s;
            values.iter().map(|&value| value as u8).collect()
        };
        let groups = dim / 4;
        let (tables, nibbles) = (bytes(16 * groups, 9), bytes(16 * groups, 10));
        let mut sums = [0; 32];
        bench(criterion, "scan", dim, 32 * groups, |kernels| {
            kernels.scan(&tables, &nibbles, &mut sums);
            sums = [0; 32];
        });
        for planes in [1, 4, 8] {
            let query = Vectors::new(1, dim, 11).i8s;
            let bits = bytes(planes * dim / 8, 12);
            let name = format!("dot_planes {planes}");
            bench(criterion, &name, dim, 2 * dim, |kernels| {
                kernels.dot_planes(&query, black_box(&bits))
            });
        }
    }
}

/// A picture of 512 x 512 made 224 wide, then a strip of it 224 high, with the taps of a bicubic resize.
fn pictures(criterion: &mut Criterion) {
    const WIDTH: usize = 10;
    let first: Vec<u32> = (0..224).map(|i| i * 502 / 223).collect();
    let whole = vec![1 << 19; first.len() * WIDTH];
    let shares = vec![0.1; first.len() * WIDTH];
    for (what, shape) in [
        ("along grey rows", [512, 512, 1]),
        ("along colour rows", [512, 512, 3]),
        ("down columns", [1, 512, 672]),
    ] {
        let samples = shape.iter().product();
        let floats = Vectors::new(1, samples, 13).f32s;
        let bytes: Vec<u8> = floats
            .iter()
            .map(|value| (value * 127.0 + 128.0) as u8)
            .collect();
        let made = samples / 512 * first.len();
        let (mut out, mut float_out) = (vec![0; made], vec![0.0; made]);
        let taps = Taps {
            first: &first,
            weights: &whole,
            bits: 22,
        };
        let name = format!("resample_u8 {what}");
        bench(criterion, &name, samples, 2 * WIDTH * made, |kernels| {
            kernels.resample_u8(&bytes, shape, taps, &mut out);
        });
        let taps = Taps {
            first: &first,
            weights: &shares,
            bits: 0,
        };
        let name = format!("resample_f32 {what}");
        bench(criterion, &name, samples, 2 * WIDTH * made, |kernels| {
            kernels.resample_f32(&floats, shape, taps, &mut float_out);
        });
    }
}

/// Short runs: the differences looked for are of tens of per cent, and there are many kernels.
fn settings() -> Criterion {
    Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(400))
}

criterion_group! {
    name = kernels;
    config = settings();
    targets = pairs, tiles, panels, slivers, values, rotations, codes, pictures
}
criterion_main!(kernels);
