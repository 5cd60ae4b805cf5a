//! What every method promises, on rows that are correlated, constant, empty of variance, and of odd widths.
//!
//! The seed is `OSLER_TEST_SEED` and printed.

use super::*;
use crate::pool::Pool;
use crate::random::Stream;

const NAMES: [&str; 7] = [
    "pq", "pq:1x8", "pq:1x4", "rabitq", "rabitq:2", "rabitq:5", "rabitq:8",
];
const METRICS: [Metric; 3] = [Metric::Cosine, Metric::Dot, Metric::L2];
const DIMS: [usize; 6] = [1, 3, 64, 100, 384, 1000];

#[allow(clippy::print_stdout, reason = "a failure must be repeatable")]
fn seed() -> u64 {
    let seed = std::env::var("OSLER_TEST_SEED").map_or(0, |text| text.parse().unwrap());
    println!("seed {seed} (OSLER_TEST_SEED)");
    seed
}

/// Nearly normal: a sum of twelve.
fn normal(stream: &mut Stream) -> f32 {
    let sum: f32 = (0..12)
        .map(|_| (stream.next_u64() >> 40) as f32 / 16_777_216.0)
        .sum();
    sum - 6.0
}

/// Rows whose values vary less and less and are mixed with their neighbours', prepared for `metric`.
fn correlated(metric: Metric, count: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut stream = Stream::new(seed, 200, dim as u64);
    let mut rows = Vec::with_capacity(count * dim);
    for row in 0..count {
        let mut last = 0.0;
        let mut vector: Vec<f32> = (0..dim)
            .map(|i| {
                last = 0.7 * last + normal(&mut stream) / (1.0 + i as f32 / 16.0);
                last + 0.3
            })
            .collect();
        metric.prepare(&mut vector, "rows", row).unwrap();
        rows.extend(vector);
    }
    rows
}

fn exact(metric: Metric, a: &[f32], b: &[f32]) -> f32 {
    match metric {
        Metric::Cosine | Metric::Dot => osler_kernels::dot(a, b),
        Metric::L2 => -osler_kernels::l2(a, b),
    }
}

struct Coded {
    quantizer: Quantizer,
    rows: Vec<f32>,
    codes: Vec<u8>,
}

impl Coded {
    fn new(name: &str, metric: Metric, rows: Vec<f32>, dim: usize, seed: u64) -> Coded {
        let method = Method::parse(name, dim).unwrap();
        Coded::by(Quantizer::train(method, metric, &rows, dim, seed), rows)
    }

    fn by(quantizer: Quantizer, rows: Vec<f32>) -> Coded {
        let mut codes = vec![0; rows.len() / quantizer.dim() * quantizer.bytes()];
        let all = codes.chunks_exact_mut(quantizer.bytes());
        for (row, code) in rows.chunks_exact(quantizer.dim()).zip(all) {
            quantizer.encode(row, code);
        }
        Coded {
            quantizer,
            rows,
            codes,
        }
    }

    fn row(&self, i: usize) -> &[f32] {
        &self.rows[i * self.quantizer.dim()..][..self.quantizer.dim()]
    }

    fn code(&self, i: usize) -> &[u8] {
        &self.codes[i * self.quantizer.bytes()..][..self.quantizer.bytes()]
    }

    fn count(&self) -> usize {
        self.rows.len() / self.quantizer.dim()
    }

    fn decoded(&self, i: usize) -> Vec<f32> {
        let mut out = vec![f32::NAN; self.quantizer.dim()];
        self.quantizer.decode(self.code(i), &mut out);
        out
    }

    /// Mean squared distance of rows and what their codes stand for.
    fn loss(&self) -> f32 {
        let loss = |i| osler_kernels::l2(self.row(i), &self.decoded(i));
        (0..self.count()).map(loss).sum::<f32>() / self.count() as f32
    }

    /// Root of the mean squared error of scores, over rows as queries.
    fn score_error(&self, metric: Metric) -> f32 {
        let queries = 20.min(self.count());
        let mut sum = 0.0;
        for q in 0..queries {
            let query = self.quantizer.prepare(self.row(q));
            for i in 0..self.count() {
                let off = query.score(self.code(i)) - exact(metric, self.row(q), self.row(i));
                sum += f64::from(off * off);
            }
        }
        (sum / (queries * self.count()) as f64).sqrt() as f32
    }
}

/// Mean squared distance of rows from their mean.
fn spread(rows: &[f32], dim: usize) -> f32 {
    let space = Space::around_mean(Metric::L2, rows, dim);
    let squares = |row| osler_kernels::sum_of_squares(&space.residual(row));
    rows.chunks_exact(dim).map(squares).sum::<f32>() / (rows.len() / dim) as f32
}

#[test]
fn names_are_read_back_and_others_refused() {
    for name in ["pq:96x4", "pq:48x8", "rabitq:1", "rabitq:8"] {
        assert_eq!(Method::parse(name, 384).unwrap().name(), name);
    }
    assert_eq!(Method::parse("rabitq", 9).unwrap().name(), "rabitq:1");
    assert_eq!(Method::parse("pq", 1).unwrap().name(), "pq:1x4");
    let wrong = "sq4 sq8 sq5 pq: pq:0x8 pq:385x8 pq:96x5 pq:96 pq:x8 pq:+9x8 pq:09x8 rabitq:0 rabitq:9 rabitq:x RaBitQ";
    for name in wrong.split(' ').chain(["", " pq"]) {
        let error = Method::parse(name, 384).unwrap_err().to_string();
        assert!(error.contains(&format!("codes is {name:?}")), "{error}");
    }
}

#[test]
fn every_method_scores_every_metric_and_width_near_the_truth() {
    let seed = seed();
    for metric in METRICS {
        for dim in DIMS {
            let rows = correlated(metric, 300, dim, seed);
            let size = rows.chunks_exact(dim).map(osler_kernels::sum_of_squares);
            let size = size.sum::<f32>() / 300.0;
            for name in NAMES {
                // Eigenvectors of so many dimensions take a test's time; once is enough.
                if dim > 100 && name.starts_with("pq") && (name != "pq" || metric != Metric::Dot) {
                    continue;
                }
                let coded = Coded::new(name, metric, rows.clone(), dim, seed);
                assert_eq!(
                    coded.quantizer.bytes(),
                    coded.quantizer.method().bytes(metric, dim)
                );
                let allowed = match name {
                    "rabitq:8" => 0.01,
                    "rabitq:5" => 0.05,
                    "rabitq:2" => 0.25,
                    "pq" => 0.5,
                    _ => 1.5,
                };
                let error = coded.score_error(metric);
                assert!(
                    error < allowed * size,
                    "{name}, {metric:?}, {dim}: {error} of {size}"
                );
            }
        }
    }
}

#[test]
fn a_block_gives_the_scores_of_its_rows_and_the_codes_back() {
    let seed = seed();
    for metric in METRICS {
        for (dim, count) in [(3, 5), (100, 32), (384, 31)] {
            let rows = correlated(metric, 200, dim, seed);
            for name in NAMES.into_iter().chain(["pq:3x4", "pq:3x8"]) {
                let coded = Coded::new(name, metric, rows.clone(), dim, seed);
                let quantizer = &coded.quantizer;
                let mut block = vec![0xff; quantizer.block_bytes()];
                quantizer.pack(&coded.codes[..count * quantizer.bytes()], &mut block);
                let query = quantizer.prepare(coded.row(77));
                let (mut scores, mut errors) = ([f32::NAN; LANES], [f32::NAN; LANES]);
                query.score_block(&block, &mut scores, &mut errors);
                let mut code = vec![0; quantizer.bytes()];
                let mut singles = Vec::new();
                let (mut off, mut allowed) = (0.0, 0.0);
                for lane in 0..count {
                    quantizer.unpack(&block, lane, &mut code);
                    assert_eq!(code, coded.code(lane), "{name}, {metric:?}, {dim}");
                    singles.push(query.score(&code));
                    off += (scores[lane] - singles[lane]).powi(2);
                    // A block's scores leave all but one bit of RaBitQ out.
                    if name.starts_with("rabitq:") {
                        allowed += errors[lane].powi(2);
                    }
                }
                // Otherwise they differ by the query's rounding: less than rows do, or a lane would be another's.
                let mean = singles.iter().sum::<f32>() / count as f32;
                let apart: f32 = singles.iter().map(|score| (score - mean).powi(2)).sum();
                let allowed = 0.1 * apart + allowed;
                assert!(
                    off <= allowed,
                    "{name}, {metric:?}, {dim}: {off} of {allowed}"
                );
            }
        }
    }
}

#[test]
fn rabitq_is_unbiased_and_its_bound_holds() {
    let seed = seed();
    let dim = 128;
    for metric in METRICS {
        let rows = correlated(metric, 40, dim, seed);
        let query = correlated(metric, 1, dim, seed + 1);
        for bits in [1, 3] {
            let (mut sum, mut squares, mut beyond, mut count) = (0.0, 0.0, 0, 0);
            for rotation in 0..50 {
                let name = format!("rabitq:{bits}");
                let coded = Coded::new(&name, metric, rows.clone(), dim, rotation);
                let prepared = coded.quantizer.prepare(&query);
                for i in 0..coded.count() {
                    let error = prepared.error(coded.code(i)).unwrap();
                    let off = prepared.score(coded.code(i)) - exact(metric, &query, coded.row(i));
                    // In the bound's own units, so that all rows count alike.
                    let off = f64::from(off / error);
                    sum += off;
                    squares += off * off;
                    beyond += u32::from(off.abs() > 1.0);
                    count += 1;
                }
            }
            let count = f64::from(count);
            let (mean, deviation) = (sum / count, (squares / count).sqrt());
            // A bias of a hundredth of the bound would be 4 standard errors; 1.9 deviations are left by 6 in 100.
            assert!(mean.abs() < 0.06, "{metric:?}, {bits} bits: bias {mean}");
            assert!(
                (0.35..0.65).contains(&deviation),
                "{metric:?}, {bits} bits: {deviation}"
            );
            assert!(
                f64::from(beyond) < 0.1 * count,
                "{metric:?}, {bits} bits: {beyond} beyond"
            );
        }
    }
}

#[test]
fn more_bits_are_nearer() {
    let seed = seed();
    for metric in METRICS {
        let rows = correlated(metric, 300, 128, seed);
        let errors: Vec<f32> = (1..=8)
            .map(|bits| {
                let name = format!("rabitq:{bits}");
                Coded::new(&name, metric, rows.clone(), 128, seed).score_error(metric)
            })
            .collect();
        for pair in errors.windows(2) {
            assert!(pair[1] < 0.75 * pair[0], "{metric:?}: {errors:?}");
        }
        let loss = |name| Coded::new(name, metric, rows.clone(), 128, seed).loss();
        assert!(loss("pq:64x4") < loss("pq:32x4"));
        assert!(loss("pq:32x8") < loss("pq:32x4"));
    }
}

#[test]
fn turning_correlated_rows_first_makes_product_codes_nearer() {
    let seed = seed();
    let rows = correlated(Metric::L2, 2000, 64, seed);
    let loss = |optimize| {
        let method = Method::parse("pq:16x4", 64).unwrap();
        let Method::Pq { parts, bits } = method else {
            unreachable!("parsed above")
        };
        let space = Space::around_mean(Metric::L2, &rows, 64);
        let product = Product::train(space, parts, bits, &rows, seed, optimize);
        let coder = Coder::Product(product);
        Coded::by(Quantizer { method, coder }, rows.clone()).loss()
    };
    let (turned, plain) = (loss(true), loss(false));
    assert!(turned < 0.9 * plain, "{turned} against {plain}");
}

#[test]
fn decoding_and_two_codes_are_near_the_rows() {
    let seed = seed();
    for metric in METRICS {
        let rows = correlated(metric, 300, 100, seed);
        let spread = spread(&rows, 100);
        let size = rows.chunks_exact(100).map(osler_kernels::sum_of_squares);
        let size = size.sum::<f32>() / 300.0;
        for (name, allowed) in [("rabitq:8", 0.001), ("rabitq:4", 0.03), ("pq:50x8", 0.1)] {
            let coded = Coded::new(name, metric, rows.clone(), 100, seed);
            let loss = coded.loss();
            assert!(
                loss < allowed * spread,
                "{name}, {metric:?}: {loss} of {spread}"
            );
            let mut squares = 0.0;
            for i in 0..20 {
                for j in 0..20 {
                    let score = coded.quantizer.between(coded.code(i), coded.code(j));
                    squares += (score - exact(metric, coded.row(i), coded.row(j))).powi(2);
                }
            }
            let error = (squares / 400.0).sqrt();
            assert!(
                error < (2.0 * allowed).sqrt() * size,
                "{name}, {metric:?}: {error}"
            );
        }
    }
}

#[test]
fn rows_that_are_all_alike_and_values_that_never_vary_give_finite_scores() {
    let dim = 70;
    let constant = [2.0_f32].repeat(dim * 50);
    let mut one_value = constant.clone();
    for (i, row) in one_value.chunks_exact_mut(dim).enumerate() {
        row[7] = i as f32;
    }
    for metric in [Metric::Dot, Metric::L2] {
        for name in NAMES {
            for rows in [
                &constant,
                &one_value,
                &vec![0.0; dim * 50],
                &constant[..dim].to_vec(),
            ] {
                let coded = Coded::new(name, metric, rows.clone(), dim, 0);
                let query = coded.quantizer.prepare(coded.row(0));
                let score = query.score(coded.code(0));
                let wanted = exact(metric, coded.row(0), coded.row(0));
                let size = 1.0 + wanted.abs() + spread(rows, dim);
                assert!(
                    (score - wanted).abs() < 0.5 * size,
                    "{name}, {metric:?}: {score}, {wanted}"
                );
                assert!(coded.decoded(0).iter().all(|x| x.is_finite()));
                assert!(
                    coded
                        .quantizer
                        .between(coded.code(0), coded.code(0))
                        .is_finite()
                );
                assert!(query.error(coded.code(0)).unwrap_or(0.0).is_finite());
            }
        }
    }
}

#[test]
fn huge_and_tiny_rows_give_finite_scores() {
    for scale in [1e-30_f32, 1e15] {
        let rows: Vec<f32> = correlated(Metric::Dot, 300, 20, 0)
            .iter()
            .map(|x| x * scale)
            .collect();
        for metric in [Metric::Dot, Metric::L2] {
            for name in NAMES {
                let coded = Coded::new(name, metric, rows.clone(), 20, 0);
                let query = coded.quantizer.prepare(coded.row(1));
                let mut block = vec![0; coded.quantizer.block_bytes()];
                coded
                    .quantizer
                    .pack(&coded.codes[..LANES * coded.quantizer.bytes()], &mut block);
                let (mut scores, mut errors) = ([0.0; LANES], [0.0; LANES]);
                query.score_block(&block, &mut scores, &mut errors);
                assert!(
                    scores.iter().chain(&errors).all(|x| x.is_finite()),
                    "{name}, {scale}"
                );
                assert!(query.score(coded.code(0)).is_finite(), "{name}, {scale}");
            }
        }
    }
}

#[test]
fn the_same_bytes_at_any_number_of_threads_and_after_storing() {
    let seed = seed();
    let rows = correlated(Metric::Cosine, 3000, 48, seed);
    for name in ["pq:12x8", "pq:24x4", "rabitq:3"] {
        let method = Method::parse(name, 48).unwrap();
        let at = |threads| {
            let train = || Ok(Quantizer::train(method, Metric::Cosine, &rows, 48, seed));
            Pool::default().run(threads, train).unwrap()
        };
        let one = at(1);
        let floats = one.floats();
        for threads in [2, 3, 8] {
            assert_eq!(at(threads).floats(), floats, "{name} at {threads} threads");
        }
        let from =
            |floats: &[f32]| Quantizer::from_floats(method, Metric::Cosine, 48, seed, floats);
        let stored = Coded::by(from(&floats).unwrap(), rows.clone());
        assert_eq!(stored.codes, Coded::by(one, rows.clone()).codes, "{name}");
        assert!(from(&floats[1..]).is_none() && from(&[]).is_none());
        assert!(from(&[&floats[..], &[0.0]].concat()).is_none());
        let mut broken = floats;
        broken[0] = f32::NAN;
        assert!(from(&broken).is_none());
    }
}

/// Training, codes and scores of every method, as one hash.
fn hash_of_everything() -> String {
    let rows = correlated(Metric::L2, 400, 70, 0);
    let mut bytes = Vec::new();
    for name in NAMES {
        let coded = Coded::new(name, Metric::L2, rows.clone(), 70, 0);
        let mut floats = coded.quantizer.floats();
        let query = coded.quantizer.prepare(coded.row(3));
        let mut block = vec![0; coded.quantizer.block_bytes()];
        coded
            .quantizer
            .pack(&coded.codes[..LANES * coded.quantizer.bytes()], &mut block);
        let (mut scores, mut errors) = ([0.0; LANES], [0.0; LANES]);
        query.score_block(&block, &mut scores, &mut errors);
        floats.extend(scores.iter().chain(&errors));
        floats.extend((0..coded.count()).map(|i| query.score(coded.code(i))));
        floats.push(coded.quantizer.between(coded.code(0), coded.code(1)));
        floats.extend(coded.decoded(5));
        bytes.extend(floats.iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend(coded.codes);
    }
    format!("hash {:?}", crate::hash::blake3(&bytes))
}

/// Prints; the test below runs it in processes of every level.
#[test]
#[allow(clippy::print_stdout, reason = "the other test reads it")]
fn prints_the_hash_of_this_level() {
    println!("{}", hash_of_everything());
}

#[test]
fn the_same_bytes_at_every_level() {
    let wanted = hash_of_everything();
    for level in osler_kernels::levels() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "--nocapture",
                "quantize::tests::prints_the_hash_of_this_level",
            ])
            .env("OSLER_SIMD", level.name())
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&wanted), "{}: {text}", level.name());
    }
}
