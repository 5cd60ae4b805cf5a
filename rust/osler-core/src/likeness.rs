//! Scores of rows whose full vectors are not kept: from a graph's 8-bit rows, or from small codes.
//!
//! Reads blocks of the graph or of codes; allocates when a query is prepared. The same row and query give the same bits,
//! however many rows are scored.

use std::cell::RefCell;

use crate::codes::CodeTable;
use crate::error::Read;
use crate::graph::Graph;
use crate::graph::stored_row::RowQuery;
use crate::metric::Metric;
use crate::quantize::Prepared;

/// A prepared query against rows without vectors.
pub enum Likeness<'a> {
    /// By 8-bit rows.
    Graph(&'a Graph, RowQuery),
    /// By small codes.
    Codes(&'a CodeTable, Box<Prepared>),
}

thread_local! {
    static CODE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl<'a> Likeness<'a> {
    /// A user's query, which `metric` has prepared, against the rows of a graph.
    pub fn of_graph(graph: &'a Graph, metric: Metric, query: &[f32]) -> Self {
        Likeness::Graph(graph, RowQuery::new(graph.frame(), metric, query))
    }

    /// A user's query, which the metric has prepared, against codes.
    pub fn of_codes(codes: &'a CodeTable, query: &[f32]) -> Self {
        Likeness::Codes(codes, Box::new(codes.quantizer().prepare(query)))
    }

    /// The score of one row.
    ///
    /// # Errors
    /// The damage, where the row lies in a damaged block of a file.
    pub fn score(&self, row: u32) -> Read<f32> {
        match self {
            Likeness::Graph(graph, query) => graph.score_of(row, query),
            Likeness::Codes(codes, query) => CODE.with_borrow_mut(|code| {
                codes.read(row, code)?;
                Ok(query.score(code))
            }),
        }
    }
}
