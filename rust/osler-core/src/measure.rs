//! Recall of searches of a snapshot, measured on its own rows or on a caller's queries, at every width of `calibrate`.
//!
//! Reads the snapshot; runs on whatever threads the caller's pool has.

use rayon::prelude::*;

use crate::calibrate::{Calibration, ENOUGH, KS, Point, WIDER, WIDTHS};
use crate::codes::CodeTable;
use crate::error::{Error, Read, Result};
use crate::exact;
use crate::graph::scratch::Scratches;
use crate::graph::search::Effort;
use crate::graph::{Graph, NONE};
use crate::likeness::Likeness;
use crate::pool::Control;
use crate::query;
use crate::queue::{Entry, Many, Top};
use crate::random::Stream;
use crate::select::RowSet;
use crate::state::{Params, State};
use crate::vectors::{Keep, Probe};

/// Rows that are kept out of the graph to measure recall: at most this many, and at most one in twenty.
const HELD_OUT: usize = 1000;
const HELD_OUT_SHARE: usize = 20;

/// How widely the nearest neighbour of a held-out row is looked for, to tell the half that is harder.
const NEAREST: Effort = Effort { k: 10, ef: 100 };

/// How many of so many live rows recall is measured with.
pub(crate) fn held_out(live: usize) -> usize {
    HELD_OUT.min(live / HELD_OUT_SHARE)
}

/// Linked rows to measure recall with.
pub(crate) fn sample(state: &State) -> Result<Vec<u32>> {
    let mut rows: Vec<u32> = state.live_rows().collect();
    Stream::new(state.params.seed, 3, rows.len() as u64).shuffle(&mut rows);
    rows.truncate(held_out(state.live()));
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
