use crate::clustered::{DIM, add, index, vectors};
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::vectors::Codes;

#[test]
fn a_build_and_later_adds_give_the_same_file() {
    let seed = 7;
    println!("seed {seed}");
    let rows = vectors(seed, 3500, 40);
    for (metric, codes) in [
        (Metric::Cosine, Codes::F32),
        (Metric::Dot, Codes::F16),
        (Metric::L2, Codes::F32),
        (Metric::Cosine, Codes::Sq5),
    ] {
        let file = |threads| {
            let index = index(metric, codes, seed);
            add(&index, &rows[..3000 * DIM], None, threads);
            add(&index, &rows[3000 * DIM..], None, threads);
            index
                .delete(
                    &(0..900).collect::<Vec<u64>>(),
                    threads,
                    &Default::default(),
                )
                .unwrap();
            index.to_bytes(2, &Control::default()).unwrap()
        };
        let one = file(1);
        for threads in [2, 3, 8] {
            assert!(
                file(threads) == one,
                "{metric:?} {codes:?} with {threads} threads"
            );
        }
    }
}
