//! How a call is answered: its options checked against a snapshot, and whether to walk the graph, to scan codes or to scan
//! all. Touches the snapshot only.
//!
//! Costs are counted in rows scored, never timed.

use super::Ask;
use crate::calibrate::KS;
use crate::codes::CodeTable;
use crate::error::{Error, Result};
use crate::graph::Graph;
use crate::graph::search::Effort;
use crate::select::RowSet;
use crate::state::{State, exact_below};
use crate::vectors::Keep;

/// A call's options, checked against a snapshot.
pub(super) struct Plan<'a> {
    pub(super) state: &'a State,
    pub(super) ask: Ask<'a>,
    /// Rows that may be returned.
    pub(super) candidates: usize,
    pub(super) way: Way,
}

/// What is scored before full vectors are, if anything.
#[derive(Clone, Copy)]
pub(super) enum Way {
    /// Every candidate's full vector is scored.
    Exact,
    /// Every candidate's 8-bit row is scored, and the full vectors of the best.
    Scan,
    /// The graph is walked.
    Walk(Effort),
    /// All candidates' small codes are scanned, and the full vectors of the best so many are scored.
    Codes(usize),
}

/// Without full vectors a scan, which rounds, leaves so many finds to be scored by their codes.
const fn finds_to_score(k: usize) -> usize {
    2 * k + 64
}

/// The recall at which walks found every row from its own vector, on clusters after twenty rounds of changes; at 0.95 a row in
/// two hundred was missed.
const SURE: f32 = 0.99;

/// A hop takes so many times longer than its share of bytes: which block is next is known late, while rows of a scan are
/// fetched ahead. Measured on 153,000 rows of 384 dimensions, where a hop took as long as ten rows.
const HOP: f64 = 2.5;

/// A vector that is read from a file costs as much as this many in memory, at least.
const DISK: usize = 8;

impl<'a> Plan<'a> {
    pub(super) fn new(state: &'a State, ask: Ask<'a>) -> Result<Self> {
        if ask.k == 0 {
            return Err(Error::input("k is 0; ask for at least 1 hit"));
        }
        if ask.ef == Some(0) {
            return Err(Error::input(
                "ef is 0; it is the number of candidates a walk keeps, at least k",
            ));
        }
        if !(ask.recall > 0.0 && ask.recall <= 1.0) {
            return Err(Error::input(format!(
                "recall is {}; it is a share above 0 and at most 1",
                ask.recall
            )));
        }
        for groups in [ask.limit.map(|l| l.0), ask.exclude.map(|e| e.0)]
            .into_iter()
            .flatten()
        {
            let outside = groups.len() as u32..state.rows() as u32;
            if outside.into_iter().any(|row| state.is_live(row)) {
                return Err(Error::input(
                    "rows were added after these groups were prepared; prepare them again",
                ));
            }
        }
        if ask.limit.is_some_and(|(_, size)| size == 0) {
            return Err(Error::input(
                "group_size is 0; use at least 1, or None for no limit",
            ));
        }
        let candidates = ask.allowed.map_or(state.live(), RowSet::count);
        Ok(Plan {
            state,
            ask,
            candidates,
            way: Self::way(state, &ask, candidates),
        })
    }

    fn way(state: &State, ask: &Ask<'_>, candidates: usize) -> Way {
        if ask.exact || state.live() < exact_below() {
            return Way::Exact;
        }
        let ef = match ask.ef {
            Some(ef) => Some(ef.max(ask.k)),
            None if ask.recall >= 1.0 => None,
            None => state
                .calibration
                .as_ref()
                .and_then(|c| c.width(ask.k, ask.recall)),
        };
        if let Some(codes) = &state.codes {
            return Self::way_of_codes(state, codes, ask, candidates, ef);
        }
        let (Some(graph), Some(ef)) = (&state.graph, ef) else {
            return Way::Exact;
        };
        // Who asks for a few wants them: below the second k that is measured, a walk for that k is made, and so wide that
        // rows of the index find themselves.
        let (k, ef) = match (ask.ef, &state.calibration) {
            (None, Some(calibration)) if ask.k < KS[1] => {
                (KS[1], ef.max(calibration.width(KS[1], SURE).unwrap_or(0)))
            }
            _ => (ask.k, ef),
        };
        let effort = Effort { k, ef: ef.max(k) };
        let hops = effort.hops() * state.rows() as f64 / candidates.max(1) as f64;
        if hops < Self::scan_in_hops(graph, candidates) {
            Way::Walk(effort)
        } else {
            Way::Scan
        }
    }

    fn way_of_codes(
        state: &State,
        codes: &CodeTable,
        ask: &Ask<'_>,
        candidates: usize,
        width: Option<usize>,
    ) -> Way {
        let whole = candidates.saturating_mul(Self::vector_bytes(state));
        let width = if state.bare > 0 {
            // What codes cannot tell is nowhere else.
            finds_to_score(ask.k)
        } else {
            match width {
                Some(width) if whole > Self::code_bytes(state, codes) => {
                    Self::grown(state, ask, width)
                }
                _ => return Way::Exact,
            }
        };
        let groups = ask.limit.map_or(1, |(_, size)| size);
        let width = width.max(ask.k.saturating_mul(groups));
        if candidates <= width {
            Way::Exact
        } else {
            Way::Codes(width)
        }
    }

    /// A calibrated width for the rows of today: those that codes place before a near one grow with all rows.
    fn grown(state: &State, ask: &Ask<'_>, width: usize) -> usize {
        match &state.calibration {
            Some(calibration) if ask.ef.is_none() && state.live() > calibration.rows => {
                let share = (width as u64).saturating_mul(state.live() as u64);
                share.div_ceil(calibration.rows.max(1) as u64) as usize
            }
            _ => width,
        }
    }

    /// Bytes that a scan of codes reads.
    fn code_bytes(state: &State, codes: &CodeTable) -> usize {
        state.rows() * codes.quantizer().bytes()
    }

    /// About what reading a full vector costs, in bytes that are read in order.
    fn vector_bytes(state: &State) -> usize {
        let bytes = state.params.dim * state.params.codes.bytes();
        if state.params.keep == Keep::Disk {
            DISK * bytes
        } else {
            bytes
        }
    }

    /// How many hops a scan of the candidates' 8-bit rows is worth.
    pub(super) fn scan_in_hops(graph: &Graph, candidates: usize) -> f64 {
        candidates as f64 / (graph.hop_in_rows() * HOP)
    }
}

/// How many 8-bit rows are as many bytes as a walk reads that answers one query; None: no walk answers it.
pub(crate) fn cost_of_walk(state: &State, ask: Ask<'_>) -> Result<Option<usize>> {
    let plan = Plan::new(state, ask)?;
    let rows = state.graph.as_ref().map_or(1.0, Graph::hop_in_rows);
    Ok(match plan.way {
        Way::Walk(effort) => {
            let hops = effort.hops() * state.rows() as f64 / plan.candidates.max(1) as f64;
            Some((hops * rows) as usize)
        }
        Way::Codes(width) => state.codes.as_ref().map(|codes| {
            let vector = state.params.dim * state.params.codes.bytes();
            Plan::code_bytes(state, codes) / vector + width
        }),
        Way::Exact | Way::Scan => None,
    })
}
