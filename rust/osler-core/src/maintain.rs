//! What a writer does to its copy of a snapshot: link new rows, drop deleted rows.
//!
//! Pure functions from snapshot to snapshot; they run on whatever threads the caller's pool has.

use std::sync::Arc;

use rayon::prelude::*;

use crate::codes::CodeTable;
use crate::error::{Error, Result};
use crate::graph::scratch::Scratches;
use crate::graph::{Blocks, Graph, repair};
use crate::keys::Keys;
use crate::measure::{held_out, measure_rows, sample};
use crate::metric::Metric;
use crate::pool::Control;
use crate::quantize::{Method, Quantizer};
use crate::queue::MAX_ROWS;
use crate::random::Stream;
use crate::select::RowSet;
use crate::state::{Params, Renumbering, State, exact_below};

/// Rows are inserted in random order from this many on, so that early batches see all of the data.
const SHUFFLE_FROM: usize = 1000;

/// Unreachable rows are looked for when this share of the rows was inserted since the last time.
const CONNECT_SHARE: usize = 20;

/// Rows that a quantizer is trained on, at most: more change little, and cost as much again.
const TRAINED_ON: usize = 20_000;

/// A quantizer is trained again when there are so many times the rows that it was trained on.
const RETRAIN: usize = 4;

/// Rows without vectors are decoded, to be linked anew with others, when those are so many times as many; what is lost
/// by coding a decoded row again is lost seldom then.
const REMEMBER: usize = 4;

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
    for &key in &keys {
        if state.row(key)?.is_some() {
            return Err(Error::input(format!(
                "key {key} is in the index already; delete it first or use another"
            )));
        }
    }
    Ok(keys)
}

/// Adds rows that are not linked yet; `vectors` are brought into the form that is stored. Where they are `many` that is done
/// on the threads of the caller's pool.
pub(crate) fn append(
    state: &mut State,
    vectors: &mut [f32],
    keys: &[u64],
    many: bool,
) -> Result<()> {
    let Params { dim, metric, .. } = state.params;
    let prepare = |(at, vector): (usize, &mut [f32])| metric.prepare(vector, "vectors", at);
    if many {
        let prepared = vectors.par_chunks_exact_mut(dim).enumerate().map(prepare);
        prepared.find_first(Result::is_err).transpose()?;
    } else {
        let mut all = vectors.chunks_exact_mut(dim).enumerate();
        all.try_for_each(prepare)?;
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
    state.push(vectors, many)?;
    let rows = state.rows();
    Arc::make_mut(&mut state.deleted).grow(rows);
    Ok(())
}

/// Puts the rows into the graph or among the codes that are not there yet, and gives up vectors that are not to be kept.
pub(crate) fn linked(state: State, scratches: &Scratches, control: &Control) -> Result<State> {
    let mut state = match state.params.codes.method() {
        Some(method) => coded(state, method, scratches, control)?,
        None => walkable(state, scratches, control)?,
    };
    state.forget();
    state.vectors.gather();
    state.graph.iter_mut().for_each(Graph::gather);
    Ok(state)
}

/// Encodes the rows that have no codes, training a quantizer first where there is none, or where it knows too few rows.
fn coded(
    mut state: State,
    method: Method,
    scratches: &Scratches,
    control: &Control,
) -> Result<State> {
    let Params {
        dim, metric, seed, ..
    } = state.params;
    let due = state
        .calibration
        .as_ref()
        .is_none_or(|c| state.live() >= 2 * c.rows);
    let (live, all_kept) = (state.live(), state.bare == 0);
    let outgrown = |codes: &CodeTable| {
        all_kept && codes.trained() < TRAINED_ON && live >= RETRAIN * codes.trained()
    };
    let mut codes = match state.codes.take() {
        Some(codes) if !outgrown(&codes) => codes,
        _ => {
            let mut rows: Vec<u32> = state.live_rows().collect();
            Stream::new(seed, 5, rows.len() as u64).shuffle(&mut rows);
            rows.truncate(TRAINED_ON);
            rows.sort_unstable();
            let mut vectors = vec![0.0; rows.len() * dim];
            for (&row, vector) in rows.iter().zip(vectors.chunks_exact_mut(dim)) {
                state.vector(row, vector)?;
            }
            control.check()?;
            let quantizer = Quantizer::train(method, metric, &vectors, dim, seed);
            CodeTable::new(quantizer, state.live())
        }
    };
    control.expect(state.rows() - codes.rows());
    let (bare, vectors) = (state.bare as u32, &state.vectors);
    codes.extend(
        state.rows(),
        dim,
        |row, out| vectors.read(row - bare, out),
        control,
    )?;
    state.codes = Some(codes);
    if due {
        let rows = sample(&state)?;
        state.calibration = measure_rows(&state, &rows, scratches, control)?.map(Arc::new);
    }
    Ok(state)
}

/// Links the rows that the graph does not have, measuring recall on some of them before they go in where that is due.
fn walkable(mut state: State, scratches: &Scratches, control: &Control) -> Result<State> {
    let have = state.graph.as_ref().map_or(0, Graph::rows);
    let new = state.rows() - have;
    let mut rows: Vec<u32> = (have as u32..state.rows() as u32).collect();
    let reached = match &state.graph {
        Some(graph) if new < have || state.bare > 0 => graph.reaches(&state, &rows)?,
        _ => true,
    };
    if state.bare > 0 && (new >= REMEMBER * have || !reached) {
        state.vectors = state.remembered(|_| true)?;
        state.bare = 0;
    }
    let due = state
        .calibration
        .as_ref()
        .is_none_or(|c| state.live() >= 2 * c.rows);
    let wanted = held_out(state.live());
    // Cutting all rows into leaves costs less than walking the graph for as many rows as it has.
    let anew = (new >= have || !reached) && state.bare == 0;
    control.expect(if anew { state.rows() } else { new });
    if anew {
        state.graph = None;
        if state.dead > 0 {
            state = compacted(&state, scratches, control)?;
        }
        let mut rows: Vec<u32> = (0..state.rows() as u32).collect();
        Stream::new(state.params.seed, 2, state.rows() as u64).shuffle(&mut rows);
        let held = rows.split_off(rows.len() - wanted);
        rows.sort_unstable();
        let blocks = state.params.codes.blocks().unwrap_or(Blocks::Fused);
        let seed = state.params.seed;
        let graph = Graph::build(&state, &rows, state.rows(), blocks, seed, control)?;
        state.graph = Some(graph);
        return measured_and_inserted(state, &held, scratches, control);
    }
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

/// The snapshot without its deleted rows, under a new numbering.
pub(crate) fn compacted(state: &State, scratches: &Scratches, control: &Control) -> Result<State> {
    let new_row = repair::renumber(state.rows(), |row| state.is_live(row));
    let mut next = State::empty(state.params);
    let few = state.live() < exact_below();
    if state.bare == 0 {
        next.vectors = state.vectors.kept(&new_row, state.spooled > 0)?;
        next.spooled = if state.spooled > 0 {
            next.vectors.rows()
        } else {
            0
        };
    } else if few {
        next.vectors = state.remembered(|row| state.is_live(row))?;
    } else {
        next.bare = state.live();
    }
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
    if !few {
        if let Some(codes) = &state.codes {
            next.codes = Some(codes.without(&new_row, control)?);
        }
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
