//! What a writer does to its copy of a snapshot: link new rows, measure recall, drop deleted rows.
//!
//! Pure functions from snapshot to snapshot; they run on whatever threads the caller's pool has.

use std::sync::Arc;

use rayon::prelude::*;

use crate::calibrate::{Calibration, ENOUGH, KS, Point, WIDER, WIDTHS};
use crate::codes::CodeTable;
use crate::error::{Error, Read, Result};
use crate::exact;
use crate::graph::scratch::Scratches;
use crate::graph::search::Effort;
use crate::graph::{Blocks, Graph, NONE, repair};
use crate::keys::Keys;
use crate::likeness::Likeness;
use crate::metric::Metric;
use crate::pool::Control;
use crate::quantize::{Method, Quantizer};
use crate::query;
use crate::queue::{Entry, MAX_ROWS, Many, Top};
use crate::random::Stream;
use crate::select::RowSet;
use crate::state::{EXACT_BELOW, Params, Renumbering, State};
use crate::vectors::{Keep, Probe};

/// Rows that are kept out of the graph to measure recall: at most this many, and at most one in twenty.
const HELD_OUT: usize = 1000;
const HELD_OUT_SHARE: usize = 20;

/// Rows are inserted in random order from this many on, so that early batches see all of the data.
const SHUFFLE_FROM: usize = 1000;

/// How widely the nearest neighbour of a held-out row is looked for, to tell the half that is harder.
const NEAREST: Effort = Effort { k: 10, ef: 100 };

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
    state.push(vectors)?;
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
    if state.bare > 0 && new >= REMEMBER * have {
        state.vectors = state.remembered(|_| true)?;
        state.bare = 0;
    }
    let due = state
        .calibration
        .as_ref()
        .is_none_or(|c| state.live() >= 2 * c.rows);
    let wanted = HELD_OUT.min(state.live() / HELD_OUT_SHARE);
    control.expect(new);
    if new >= have && state.bare == 0 {
        // Cutting all rows into leaves costs less than walking the graph for as many rows as it has.
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

/// Recall for rows of the index as queries, each of which is kept out of its own answer.
pub(crate) fn measure_rows(
    state: &State,
    rows: &[u32],
    scratches: &Scratches,
    control: &Control,
) -> Result<Option<Calibration>> {
    let dim = state.params.dim;
    let mut queries = vec![0.0; rows.len() * dim];
    for (&row, query) in rows.iter().zip(queries.chunks_exact_mut(dim)) {
        state.vector(row, query)?;
    }
    measure(state, &queries, Some(rows), scratches, control)
}

/// A query that recall is measured with.
struct Measured<'a> {
    /// Scores by the best that is kept of a row today.
    judge: Probe<'a>,
    /// Scores of the exact answer, best first.
    truth: Vec<f32>,
}

/// Recall for prepared queries at every width, against exact search. Rows that are `held` are no answers, and only the
/// harder half of them is measured.
pub(crate) fn measure(
    state: &State,
    queries: &[f32],
    held: Option<&[u32]>,
    scratches: &Scratches,
    control: &Control,
) -> Result<Option<Calibration>> {
    if !state.is_linked() {
        return Ok(None);
    }
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
    let mut queries: Vec<&[f32]> = queries.chunks_exact(state.params.dim).collect();
    let halves = held.is_some();
    let absent = absent_nodes(state, held.unwrap_or(&[]))?;
    if halves && let Some(graph) = &state.graph {
        keep_harder_half(
            state,
            graph,
            &mut queries,
            &answerable,
            &absent,
            scratches,
            control,
        )?;
    }
    let mut measured = with_truths(state, &queries, &answerable, control)?;
    measured.retain(|query| !query.truth.is_empty());
    // By distance from the rows: the halves are those with the farthest and with the nearest neighbours.
    measured.sort_by(|a, b| a.truth[0].total_cmp(&b.truth[0]));
    if measured.is_empty() {
        return Ok(None);
    }
    let mut points = match (&state.codes, &state.graph) {
        (Some(codes), _) => by_codes(state, codes, &measured, &answerable, halves, control)?,
        (None, Some(graph)) => by_walks(
            state,
            graph,
            &measured,
            &answerable,
            &absent,
            scratches,
            control,
        )?,
        (None, None) => Vec::new(),
    };
    points.sort_unstable_by_key(|p| (p.k, p.ef));
    Ok(Some(Calibration {
        rows: state.live(),
        queries: measured.len(),
        points,
    }))
}

/// The nodes of those rows that are linked.
fn absent_nodes(state: &State, rows: &[u32]) -> Result<Vec<u32>> {
    let Some(graph) = &state.graph else {
        return Ok(Vec::new());
    };
    let nodes = rows.iter().map(|&row| graph.node_of(row));
    let nodes = nodes.collect::<Read<Vec<u32>>>()?;
    Ok(nodes.into_iter().filter(|&node| node != NONE).collect())
}

/// The queries with the scores of their exact answers.
fn with_truths<'a>(
    state: &'a State,
    queries: &[&'a [f32]],
    answerable: &RowSet,
    control: &Control,
) -> Result<Vec<Measured<'a>>> {
    let most = KS[KS.len() - 1];
    let measured = queries
        .par_chunks(16)
        .map(|queries| {
            control.check()?;
            let probes: Vec<Probe<'a>> = queries.iter().map(|query| state.probe(query)).collect();
            let mut tops: Vec<Top> = probes.iter().map(|_| Top::with_capacity(most)).collect();
            exact::scan_batch(&probes, answerable.iter(), |_, _| true, &mut tops)?;
            let truths = tops
                .iter()
                .map(|top| top.entries().iter().map(|e| e.score()).collect());
            Ok(probes
                .into_iter()
                .zip(truths)
                .map(|(judge, truth)| Measured { judge, truth })
                .collect::<Vec<_>>())
        })
        .collect::<Result<Vec<_>>>()?;
    Ok(measured.into_iter().flatten().collect())
}

/// Which share of the exact answer is among `hits`, given by the scores that count.
fn share(truth: &[f32], k: usize, hits: impl Iterator<Item = f32>) -> f64 {
    let k = k.min(truth.len());
    let found = hits.filter(|&score| score >= truth[k - 1]).count();
    found.min(k) as f64 / k as f64
}

/// Whether no wider search is worth measuring.
fn suffices(points: &[Point]) -> bool {
    let enough = |k: usize| {
        let mut of_k = points.iter().filter(|p| p.k as usize == k);
        of_k.any(|p| p.lower >= ENOUGH)
    };
    KS[1..].iter().all(|&k| enough(k))
}

/// Recall of walks of the graph.
fn by_walks(
    state: &State,
    graph: &Graph,
    measured: &[Measured<'_>],
    answerable: &RowSet,
    absent: &[u32],
    scratches: &Scratches,
    control: &Control,
) -> Result<Vec<Point>> {
    let Params { metric, keep, .. } = state.params;
    let mut points = Vec::new();
    for ef in WIDTHS {
        for k in KS.into_iter().filter(|&k| k <= ef) {
            let effort = Effort { k, ef };
            let recalls: Vec<f64> = measured
                .par_iter()
                .map(|Measured { judge, truth }| {
                    control.check()?;
                    let mut found = Vec::new();
                    scratches.with(|scratch| {
                        state.aim(graph, judge.query(), &mut scratch.query);
                        query::walk(state, graph, judge, effort, absent, scratch, &mut found)
                    })?;
                    found.retain(|e| answerable.contains(e.row()));
                    if keep == Keep::Nowhere && state.bare == 0 {
                        // Vectors are there today, but answers will be chosen without them.
                        let likeness = Likeness::of_graph(graph, metric, judge.query());
                        let chooser = judge.clone().with_likeness(state.rows(), likeness);
                        query::settle(&chooser, &mut found)?;
                        found.truncate(k);
                    }
                    query::settle(judge, &mut found)?;
                    Ok(share(truth, k, found.iter().take(k).map(|e| e.score())))
                })
                .collect::<Result<_>>()?;
            points.push(Point::new(k, ef, &recalls));
        }
        if suffices(&points) {
            break;
        }
    }
    Ok(points)
}

/// Recall of scans of codes, by how many rows they leave to be ordered by vectors. One scan has the finds of all widths.
/// Which of the `halves` is harder for codes depends on how dense rows lie, so the worse of both counts.
fn by_codes(
    state: &State,
    codes: &CodeTable,
    measured: &[Measured<'_>],
    answerable: &RowSet,
    halves: bool,
    control: &Control,
) -> Result<Vec<Point>> {
    let widths = || WIDTHS.into_iter().chain(WIDER);
    let most = widths().max().unwrap_or(1).min(state.rows());
    let without_vectors = state.params.keep == Keep::Nowhere;
    let mut judged: Vec<(Vec<Entry>, Vec<f32>)> = measured
        .par_iter()
        .map(|Measured { judge, .. }| {
            control.check()?;
            let prepared = codes.quantizer().prepare(judge.query());
            let mut found = Many::new(most);
            let mask = |block| answerable.word32(block);
            codes.scan(
                0..codes.blocks().len(),
                &prepared,
                mask,
                |_| true,
                &mut found,
            )?;
            let mut found = found.into_entries();
            if without_vectors {
                let likeness = Likeness::of_codes(codes, judge.query());
                let chooser = judge.clone().with_likeness(state.rows(), likeness);
                query::settle(&chooser, &mut found)?;
                found.truncate(KS[KS.len() - 1]);
            }
            Ok((found, Vec::new()))
        })
        .collect::<Result<_>>()?;
    let mut points = Vec::new();
    for ef in widths() {
        let of_query = judged.par_iter_mut().zip(measured);
        of_query.try_for_each(|((found, scores), query)| {
            control.check()?;
            for entry in found.iter().take(ef).skip(scores.len()) {
                scores.push(query.judge.score(entry.row())?);
            }
            Ok::<_, Error>(())
        })?;
        for k in KS.into_iter().filter(|&k| k <= ef) {
            let counted = if without_vectors { k } else { ef };
            let of_query = measured.iter().zip(&judged);
            let recalls: Vec<f64> = of_query
                .map(|(query, (_, scores))| {
                    share(&query.truth, k, scores.iter().take(counted).copied())
                })
                .collect();
            let half = if halves {
                recalls.len().div_ceil(2)
            } else {
                recalls.len()
            };
            let point = recalls.chunks(half).map(|half| Point::new(k, ef, half));
            points.extend(point.reduce(|a, b| if a.lower <= b.lower { a } else { b }));
        }
        if suffices(&points) || (without_vectors && ef >= KS[KS.len() - 1]) {
            break;
        }
    }
    Ok(points)
}

/// Keeps the half of the held-out rows whose nearest neighbour is the farthest, by a walk: exact answers of the others would
/// be for nothing.
///
/// Rows come with near-copies of themselves (slices of one patient, terms of one family), which are easy to find; a
/// user's query seldom does. On real medical terms queries from outside the index had the recall of this half, not of
/// all held-out rows.
fn keep_harder_half(
    state: &State,
    graph: &Graph,
    queries: &mut Vec<&[f32]>,
    answerable: &RowSet,
    absent: &[u32],
    scratches: &Scratches,
    control: &Control,
) -> Result<()> {
    let mut nearest: Vec<(f32, &[f32])> = queries
        .par_iter()
        .map(|&query| {
            control.check()?;
            let judge = state.probe(query);
            let mut found = Vec::new();
            scratches.with(|scratch| {
                state.aim(graph, judge.query(), &mut scratch.query);
                query::walk(state, graph, &judge, NEAREST, absent, scratch, &mut found)
            })?;
            found.retain(|e| answerable.contains(e.row()));
            query::settle(&judge, &mut found)?;
            let best = found.first().map_or(f32::NEG_INFINITY, |e| e.score());
            Ok((best, query))
        })
        .collect::<Result<_>>()?;
    nearest.sort_by(|a, b| a.0.total_cmp(&b.0));
    nearest.truncate(nearest.len().div_ceil(2));
    *queries = nearest.into_iter().map(|(_, query)| query).collect();
    Ok(())
}

/// The snapshot without its deleted rows, under a new numbering.
pub(crate) fn compacted(state: &State, scratches: &Scratches, control: &Control) -> Result<State> {
    let new_row = repair::renumber(state.rows(), |row| state.is_live(row));
    let mut next = State::empty(state.params);
    let few = state.live() < EXACT_BELOW;
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
