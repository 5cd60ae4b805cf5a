//! What a writer does to its copy of a snapshot: link new rows, measure recall, drop deleted rows.
//!
//! Pure functions from snapshot to snapshot; they run on whatever threads the caller's pool has.

use std::sync::Arc;

use rayon::prelude::*;

use crate::calibrate::{Calibration, ENOUGH, KS, Point, WIDTHS};
use crate::error::{Damage, Error, Read, Result};
use crate::exact;
use crate::graph::scratch::Scratches;
use crate::graph::search::Effort;
use crate::graph::{Graph, NONE, repair};
use crate::keys::Keys;
use crate::metric::Metric;
use crate::pool::Control;
use crate::query;
use crate::queue::{MAX_ROWS, Top};
use crate::random::Stream;
use crate::select::RowSet;
use crate::state::{EXACT_BELOW, Params, Renumbering, State};
use crate::vectors::{Probe, Vectors};

/// Rows that are kept out of the graph to measure recall: at most this many, and at most one in twenty.
const HELD_OUT: usize = 1000;
const HELD_OUT_SHARE: usize = 20;

/// Rows are inserted in random order from this many on, so that early batches see all of the data.
const SHUFFLE_FROM: usize = 1000;

/// Unreachable rows are looked for when this share of the rows was inserted since the last time.
const CONNECT_SHARE: usize = 20;

/// A row is longer than the radius if it is so by this much; the new radius leaves as much room again, so that a slowly
/// growing stream does not lift all rows anew with every call.
const RADIUS_ROOM: f32 = 1.1;

/// The keys for `count` new rows.
pub(crate) fn checked_keys(state: &State, count: usize, keys: Option<&[u64]>) -> Result<Vec<u64>> {
    let keys = match keys {
        Some(keys) => keys.to_vec(),
        None => state.keys.defaults(count)?,
    };
    if keys.len() != count {
        return Err(Error::input(format!(
            "{} keys were given for {count} vectors; give one for each",
            keys.len()
        )));
    }
    if state.rows() + count > MAX_ROWS as usize {
        return Err(Error::input(format!(
            "an index holds at most {MAX_ROWS} vectors; make a second one"
        )));
    }
    if let Some(key) = keys.iter().find(|&&key| state.row(key).is_some()) {
        return Err(Error::input(format!(
            "key {key} is in the index already; delete it first or use another"
        )));
    }
    Ok(keys)
}

/// Adds rows that are not linked yet; `vectors` are brought into the form that is stored.
pub(crate) fn append(state: &mut State, vectors: &mut [f32], keys: &[u64]) -> Result<()> {
    let Params { dim, metric, .. } = state.params;
    for (at, vector) in vectors.chunks_exact_mut(dim).enumerate() {
        metric.prepare(vector, "vectors", at)?;
    }
    if metric == Metric::Dot {
        let squares = vectors.chunks_exact(dim).map(osler_kernels::sum_of_squares);
        let longest = squares.fold(0.0, f32::max).sqrt();
        if state.rows() == 0 {
            state.lengthen(longest)?;
        } else if longest > RADIUS_ROOM * state.radius {
            state.lengthen(RADIUS_ROOM * longest)?;
        }
    }
    state.keys.append(keys)?;
    for (at, vector) in vectors.chunks_exact(dim).enumerate() {
        state.push(vector, at)?;
    }
    let rows = state.rows();
    Arc::make_mut(&mut state.deleted).grow(rows);
    Ok(())
}

/// Links the rows that the graph does not have, measuring recall on some of them before they go in where that is due.
pub(crate) fn linked(state: State, scratches: &Scratches, control: &Control) -> Result<State> {
    let mut state = all_linked(state, scratches, control)?;
    state.vectors.gather();
    state.graph.iter_mut().for_each(Graph::gather);
    Ok(state)
}

fn all_linked(mut state: State, scratches: &Scratches, control: &Control) -> Result<State> {
    let have = state.graph.as_ref().map_or(0, Graph::rows);
    let new = state.rows() - have;
    let due = state
        .calibration
        .as_ref()
        .is_none_or(|c| state.live() >= 2 * c.rows);
    let wanted = HELD_OUT.min(state.live() / HELD_OUT_SHARE);
    control.expect(new);
    if new >= have {
        // Cutting all rows into leaves costs less than walking the graph for as many rows as it has.
        state.graph = None;
        if state.dead > 0 {
            state = compacted(&state, scratches, control)?;
        }
        let mut rows: Vec<u32> = (0..state.rows() as u32).collect();
        Stream::new(state.params.seed, 2, state.rows() as u64).shuffle(&mut rows);
        let held = rows.split_off(rows.len() - wanted);
        rows.sort_unstable();
        let graph = Graph::build(&state, &rows, state.rows(), state.params.seed, control)?;
        state.graph = Some(graph);
        return measured_and_inserted(state, &held, scratches, control);
    }
    let mut rows: Vec<u32> = (have as u32..state.rows() as u32).collect();
    if rows.len() >= SHUFFLE_FROM {
        Stream::new(state.params.seed, 2, state.rows() as u64).shuffle(&mut rows);
    }
    // A few new rows alone would measure nothing; then rows of the graph stand in for rows held out.
    let enough = wanted <= new / 2;
    let held = rows.split_off(rows.len() - if due && enough { wanted } else { 0 });
    insert(&mut state, &rows, scratches, control)?;
    if due && enough {
        return measured_and_inserted(state, &held, scratches, control);
    }
    connect(&mut state, scratches)?;
    if due {
        let rows = sample(&state)?;
        state.calibration = measure_rows(&state, &rows, scratches, control)?.map(Arc::new);
    }
    Ok(state)
}

/// Measures recall with rows that are not linked yet, and links them.
fn measured_and_inserted(
    mut state: State,
    held: &[u32],
    scratches: &Scratches,
    control: &Control,
) -> Result<State> {
    state.calibration = measure_rows(&state, held, scratches, control)?.map(Arc::new);
    insert(&mut state, held, scratches, control)?;
    connect(&mut state, scratches)?;
    Ok(state)
}

fn insert(state: &mut State, rows: &[u32], scratches: &Scratches, control: &Control) -> Result<()> {
    state.unchecked += rows.len();
    if let Some(mut graph) = state.graph.take() {
        graph.insert(state, rows, scratches, control)?;
        state.graph = Some(graph);
    }
    Ok(())
}

/// Looks for rows that no path leads to, where enough rows were linked since the last time.
fn connect(state: &mut State, scratches: &Scratches) -> Result<()> {
    if state.unchecked * CONNECT_SHARE >= state.rows()
        && let Some(graph) = &mut state.graph
    {
        graph.connect(scratches)?;
        state.unchecked = 0;
    }
    Ok(())
}

/// Linked rows to measure recall with.
pub(crate) fn sample(state: &State) -> Result<Vec<u32>> {
    let mut rows: Vec<u32> = state.live_rows().collect();
    Stream::new(state.params.seed, 3, rows.len() as u64).shuffle(&mut rows);
    rows.truncate(HELD_OUT.min(state.live() / HELD_OUT_SHARE));
    Ok(rows)
}

/// Recall of the graph for rows of the index as queries, each of which is kept out of its own answer.
pub(crate) fn measure_rows(
    state: &State,
    rows: &[u32],
    scratches: &Scratches,
    control: &Control,
) -> Result<Option<Calibration>> {
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
) -> Result<Option<Calibration>> {
    let Some(graph) = &state.graph else {
        return Ok(None);
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
    let mut measured: Vec<(Probe<'_>, Vec<f32>)> = probes.into_iter().zip(truths).collect();
    measured.retain(|(_, truth)| !truth.is_empty());
    if held.is_some() {
        keep_harder_half(&mut measured);
    }
    if measured.is_empty() {
        return Ok(None);
    }
    let absent = held
        .unwrap_or(&[])
        .iter()
        .map(|&row| graph.node_of(row))
        .collect::<Read<Vec<u32>>>()?;
    let absent: Vec<u32> = absent.into_iter().filter(|&node| node != NONE).collect();
    let mut points = Vec::new();
    for ef in WIDTHS {
        let mut of_width = Vec::new();
        for k in KS.into_iter().filter(|&k| k <= ef) {
            let effort = Effort { k, ef };
            let hits: Vec<Vec<f32>> = measured
                .par_iter()
                .map(|(probe, _)| {
                    control.check()?;
                    let found = scratches.with(|scratch| {
                        let mut found = Vec::new();
                        state.aim(graph, probe.query(), &mut scratch.query);
                        query::walk(state, graph, probe, effort, &absent, scratch, &mut found)?;
                        found.retain(|e| answerable.contains(e.row()));
                        query::settle(probe, &mut found)?;
                        Ok::<_, Box<Damage>>(found)
                    })?;
                    Ok(found.iter().map(|e| e.score()).collect())
                })
                .collect::<Result<Vec<_>>>()?;
            of_width.push((k, hits));
        }
        for (k, hits) in of_width {
            let recalls: Vec<f64> = measured
                .iter()
                .zip(&hits)
                .map(|((_, truth), hits)| {
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
        let enough = |k: usize| {
            let mut of_k = points.iter().filter(|p| p.k as usize == k);
            of_k.any(|p| p.lower >= ENOUGH)
        };
        if KS[1..].iter().all(|&k| enough(k)) {
            break;
        }
    }
    points.sort_unstable_by_key(|p| (p.k, p.ef));
    Ok(Some(Calibration {
        rows: state.live(),
        queries: measured.len(),
        points,
    }))
}

/// Keeps the half of the held-out rows whose nearest neighbour is the farthest.
///
/// Rows come with near-copies of themselves (slices of one patient, terms of one family), which are easy to find; a
/// user's query seldom does. On real medical terms queries from outside the index had the recall of this half, not of
/// all held-out rows.
fn keep_harder_half(measured: &mut Vec<(Probe<'_>, Vec<f32>)>) {
    measured.sort_by(|(_, a), (_, b)| a[0].total_cmp(&b[0]));
    measured.truncate(measured.len().div_ceil(2));
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
            let mut graph = graph.without(&new_row, control)?;
            graph.connect(scratches)?;
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
        .take_while(|r| r.users.strong_count() == 0)
        .count();
    // The snapshot that is replaced holds the newest, so that one stays; of the older ones any holder is a prepared set.
    next.renumberings.drain(..unused);
    Ok(next)
}
