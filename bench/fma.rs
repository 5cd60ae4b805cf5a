//! The most multiply-adds that the processors of this machine do: `rustc -O -C target-cpu=native fma.rs`, then
//! `./fma THREADS`; prints GFLOP/s in single precision. What a matrix product can reach at best.

use std::time::Instant;

const LANES: usize = 8;
const CHAINS: usize = 12; // latency 4 to 5 cycles times two units, and what 16 registers hold
const ROUNDS: usize = 40_000_000;

fn chains() -> f32 {
    let mut sums = [[1.0f32; LANES]; CHAINS];
    let (factor, addend) = (std::hint::black_box([0.999_999f32; LANES]), std::hint::black_box([1e-7f32; LANES]));
    for _ in 0..ROUNDS {
        for sum in &mut sums {
            for lane in 0..LANES {
                sum[lane] = sum[lane].mul_add(factor[lane], addend[lane]);
            }
        }
    }
    sums.iter().flatten().sum()
}

fn main() {
    let threads: usize = std::env::args().nth(1).and_then(|text| text.parse().ok()).unwrap_or(1);
    let best = (0..3)
        .map(|_| {
            let began = Instant::now();
            let workers: Vec<_> = (0..threads).map(|_| std::thread::spawn(chains)).collect();
            let total: f32 = workers.into_iter().map(|worker| worker.join().expect("a worker ends")).sum();
            std::hint::black_box(total);
            (2 * threads * ROUNDS * CHAINS * LANES) as f64 / began.elapsed().as_secs_f64() / 1e9
        })
        .fold(0.0, f64::max);
    println!("{best:.1}");
}
