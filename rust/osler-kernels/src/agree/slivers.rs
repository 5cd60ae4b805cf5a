//! The kernels over slivers at every level, against their plain meaning.

use super::{Place, Random, agree, random, vector_levels};
use crate::agree::guarded::Guarded;
use crate::{SLIVER, scalar};

fn check(random: &mut Random, (rows, slivers, dim): (usize, usize, usize), place: Place) {
    let extreme = dim.is_multiple_of(2);
    let count = slivers * SLIVER;
    let row_terms = Guarded::new(&random.f32s(rows, extreme), place);
    let mut terms = random.f32s(count, extreme);
    // What pads a sliver: no sum may reach a floor.
    terms
        .iter_mut()
        .step_by(5)
        .for_each(|term| *term = f32::NEG_INFINITY);
    let terms = Guarded::new(&terms, place);
    let slivers = Guarded::new(&random.f32s(count * dim, extreme), place);
    let queries = Guarded::new(&random.f32s(rows * dim, extreme), place);
    let mut sums = vec![0.0; rows * count];
    scalar::sliver_sums(&queries, &slivers, &terms, dim, &mut sums);
    let floor = sums.get(rows * count / 2).copied().unwrap_or(0.0);
    let mut masks = vec![0; rows * count / SLIVER];
    let [left, right] = [[&*queries, &*row_terms], [&*slivers, &*terms]];
    scalar::sliver_reach(left, right, floor, dim, &mut masks);
    for kernels in vector_levels() {
        let mut out = Guarded::new(&vec![f32::NAN; sums.len()], place);
        kernels.sliver_sums(&queries, &slivers, &terms, dim, &mut out);
        agree(
            kernels,
            &format!("sliver_sums of {rows} rows"),
            dim,
            place,
            &out,
            &sums,
        );
        let mut out = Guarded::new(&vec![7; masks.len()], place);
        kernels.sliver_reach(left, right, floor, dim, &mut out);
        assert_eq!(
            *out,
            *masks,
            "sliver_reach at {} of {rows} rows, dim {dim}",
            kernels.level().name()
        );
    }
}

#[test]
fn slivers_have_the_same_bits_in_every_shape() {
    let mut random = random();
    for rows in 0..=9 {
        for slivers in 0..=3 {
            for dim in [1, 2, 31, 32, 33] {
                for place in [Place::End, Place::Start(1)] {
                    check(&mut random, (rows, slivers, dim), place);
                }
            }
        }
    }
}

#[test]
fn a_row_reaches_a_floor_that_it_equals_and_padding_never_does() {
    let mut sliver = [1.0; 2 * SLIVER];
    sliver[SLIVER + 3] = 0.5;
    let mut terms = [0.25; SLIVER];
    terms[7] = f32::NEG_INFINITY;
    for kernels in vector_levels() {
        let mut out = [0];
        kernels.sliver_reach([&[2.0, 1.0], &[0.5]], [&sliver, &terms], 3.75, 2, &mut out);
        assert_eq!(out, [!(1 << 3 | 1 << 7)]);
    }
}

#[test]
fn shapes_that_do_not_fit_are_refused() {
    fn refused(call: impl FnOnce() + std::panic::UnwindSafe) {
        assert!(std::panic::catch_unwind(call).is_err());
    }
    let (sliver, terms) = ([0.0; 2 * SLIVER], [0.0; SLIVER]);
    for kernels in vector_levels() {
        refused(|| kernels.sliver_sums(&[], &[], &[], 0, &mut []));
        refused(|| kernels.sliver_sums(&[0.0; 3], &sliver, &terms, 2, &mut [0.0; SLIVER]));
        refused(|| kernels.sliver_sums(&[0.0; 2], &sliver, &terms[1..], 2, &mut [0.0; SLIVER]));
        refused(|| kernels.sliver_sums(&[0.0; 2], &sliver, &terms, 2, &mut [0.0; 31]));
        refused(|| kernels.sliver_sums(&[0.0; 2], &sliver[1..], &terms, 2, &mut [0.0; SLIVER]));
        refused(|| kernels.sliver_reach([&[0.0; 2], &[]], [&sliver, &terms], 0.0, 2, &mut [0]));
        refused(|| kernels.sliver_reach([&[0.0; 2], &[0.0]], [&sliver, &terms], 0.0, 2, &mut []));
    }
}
