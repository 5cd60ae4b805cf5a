//! What a writer does to its copy of a snapshot: link new rows, measure recall, drop deleted rows.
//!
//! Pure functions from snapshot to snapshot; they run on whatever threads the caller's pool has.

use std::sync::Arc;

use rayon::prelude::*;

use crate::calibrate::{Calibration, ENOUGH, KS, Point, WIDTHS};
use crate::error::Result;
use crate::exact;
use crate::graph::{Graph, repair, search};
use crate::keys::Keys;
use crate::pool::Control;
use crate::queue::Top;
use crate::random::Stream;
use crate::scratch::Scratches;
use crate::select::RowSet;
use crate::state::{EXACT_BELOW, Params, Renumbering, State};
use crate::vectors::{Probe, Vectors};

/// Rows that are kept out of the graph to measure recall: at most this many, and at most one in twenty.
pub(crate) const HELD_OUT: usize = 1000;
const HELD_OUT_SHARE: usize = 20;

/// Rows are inserted in random order from this many on, so that early batches see all of the data.
const SHUFFLE_FROM: usize = 1000;

/// Inserts rows into the graph, measuring recall on some of them before they go in where that is due.
pub(crate) fn linked(
    mut state: State,
    mut new: Vec<u32>,
    connect: bool,
    scratches: &Scratches,
    control: &Control,
) -> Result<State> {
    let mut graph = state
        .graph
        .take()
        .unwrap_or_else(|| Graph::new(0, state.params.seed));
    graph.grow(state.rows());
    let due = state
        .calibration
        .as_ref()
        .is_none_or(|c| state.live() >= 2 * c.rows);
    if new.len() >= SHUFFLE_FROM {
        Stream::new(state.params.seed, 2, state.rows() as u64).shuffle(&mut new);
    }
    control.expect(new.len());
    let held = if due {
        HELD_OUT
            .min(state.live() / HELD_OUT_SHARE)
            .min(new.len() / 2)
    } else {
        0
    };
    let held = new.split_off(new.len() - held);
    graph.insert(&state, &new, scratches, control)?;
    if held.len() > 1 {
        state.graph = Some(graph);
        let calibration = measure_rows(&state, &held, scratches, control)?;
        state.calibration = Some(Arc::new(calibration));
        graph = state
            .graph
            .take()
            .unwrap_or_else(|| unreachable!("it was put there above"));
    }
    graph.insert(&state, &held, scratches, control)?;
    if connect {
        graph.connect(&state, scratches)?;
    }
    state.graph = Some(graph);
    Ok(state)
}

/// Recall of the graph for rows of the index as queries, each of which is kept out of its own answer.
pub(crate) fn measure_rows(
    state: &State,
    rows: &[u32],
    scratches: &Scratches,
    control: &Control,
) -> Result<Calibration> {
    let dim = state.params.dim;
    let mut queries = vec![0.0; rows.len() * dim];
    for (&row, query) in rows.iter().zip(queries.chunks_exact_mut(dim)) {
        state.vectors.read(row, query)?;
    }
    measure(state, &queries, Some(rows), scratches, control)
}

/// Recall of the graph for prepared queries at every width, against exact search. Rows that are `held` are no answers,
/// and only the harder half of them is measured.
pub(crate) fn measure(
    state: &State,
    queries: &[f32],
    held: Option<&[u32]>,
    scratches: &Scratches,
    control: &Control,
) -> Result<Calibration> {
    let Some(graph) = &state.graph else {
        return Ok(Calibration::default());
    };
    let Params { dim, metric, .. } = state.params;
    let mut answerable = state.live_set();
    if let Some(held) = held {
        answerable = {
            let mut out = RowSet::empty(state.rows());
            held.iter().for_each(|&row| {
                out.insert(row);
            });
            answerable.combine(&out, |a, b| a & !b)
        };
    }
    let most = KS[KS.len() - 1];
    let probes: Vec<Probe<'_>> = queries
        .chunks_exact(dim)
        .map(|q| Probe::new(&state.vectors, metric, q))
        .collect();
    let truths: Vec<Vec<f32>> = probes
        .par_chunks(16)
        .map(|probes| {
            control.check()?;
            let mut tops: Vec<Top> = probes.iter().map(|_| Top::with_capacity(most)).collect();
            exact::scan_batch(probes, answerable.iter(), |_, _| true, &mut tops)?;
            Ok(tops
                .iter()
                .map(|top| top.entries().iter().map(|e| e.score()).collect())
                .collect::<Vec<Vec<f32>>>())
        })
        .collect::<Result<Vec<_>>>()?
        .concat();
    let (probes, truths) = if held.is_some() {
        harder_half(probes, truths)
    } else {
        (probes, truths)
    };
    let mut points = Vec::new();
    for ef in WIDTHS {
        let hits: Vec<Vec<f32>> = probes
            .par_iter()
            .map(|probe| {
                control.check()?;
                scratches.with(|scratch| {
                    let Some(start) = graph.start(probe)? else {
                        return Ok(Vec::new());
                    };
                    let mut top = Top::with_capacity(ef);
                    let accept = |row| answerable.contains(row);
                    search::filtered(graph, probe, start, accept, &mut top, usize::MAX, scratch)?;
                    Ok(top.entries().iter().map(|e| e.score()).collect())
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for k in KS.into_iter().filter(|&k| k <= ef) {
            let recalls: Vec<f64> = truths
                .iter()
                .zip(&hits)
                .map(|(truth, hits)| {
                    let k = k.min(truth.len());
                    let found = hits
                        .iter()
                        .take(k)
                        .filter(|&&score| score >= truth[k - 1])
                        .count();
                    found as f64 / k as f64
                })
                .collect();
            points.push(Point::new(k, ef, &recalls));
        }
        if KS.iter().all(|&k| {
            points
                .iter()
                .any(|p| p.k as usize == k && p.lower >= ENOUGH)
        }) {
            break;
        }
    }
    points.sort_unstable_by_key(|p| (p.k, p.ef));
    Ok(Calibration {
        rows: state.live(),
        queries: probes.len(),
        points,
    })
}

/// The half of the held-out rows whose nearest neighbour is the farthest, with their exact answers.
///
/// Rows come with near-copies of themselves (slices of one patient, terms of one family), which are easy to find; a
/// user's query seldom does. On real medical terms queries from outside the index had the recall of this half, not of
/// all held-out rows.
fn harder_half<'a>(
    probes: Vec<Probe<'a>>,
    truths: Vec<Vec<f32>>,
) -> (Vec<Probe<'a>>, Vec<Vec<f32>>) {
    let mut order: Vec<usize> = (0..probes.len()).collect();
    order.sort_by(|&a, &b| truths[a][0].total_cmp(&truths[b][0]).then(a.cmp(&b)));
    order.truncate(probes.len().div_ceil(2));
    order
        .into_iter()
        .map(|i| (probes[i], truths[i].clone()))
        .unzip()
}

/// The snapshot without its deleted rows, under a new numbering.
pub(crate) fn compacted(state: &State, scratches: &Scratches, control: &Control) -> Result<State> {
    let new_row = repair::renumber(state.rows(), |row| state.is_live(row));
    let mut next = State::empty(state.params);
    next.vectors = match &state.vectors {
        Vectors::F32(rows) => Vectors::F32(repair::kept(rows, &new_row)?),
        Vectors::F16(rows) => Vectors::F16(repair::kept(rows, &new_row)?),
    };
    next.lifts = state
        .lifts
        .as_ref()
        .map(|lifts| repair::kept(lifts, &new_row))
        .transpose()?;
    next.radius = state.radius;
    next.keys = Keys::from_rows(
        repair::kept(state.keys.rows(), &new_row)?,
        state.keys.next(),
    )?;
    next.deleted = Arc::new(RowSet::empty(next.rows()));
    if state.live() >= EXACT_BELOW {
        if let Some(graph) = &state.graph {
            let mut graph = graph.without(state, &next, &new_row, control)?;
            graph.connect(&next, scratches)?;
            next.graph = Some(graph);
        }
        next.calibration = state.calibration.clone();
    }
    next.numbering = state.numbering + 1;
    next.renumberings = state.renumberings.clone();
    let users = Arc::downgrade(&state.users);
    next.renumberings.push(Renumbering {
        users,
        new_row: new_row.into(),
    });
    let unused = next
        .renumberings
        .iter()
        .take_while(|r| r.users.strong_count() <= 1)
        .count();
    // The snapshot that is replaced holds its own numbering once; any further holder is a prepared set.
    next.renumberings.drain(..unused);
    Ok(next)
}
