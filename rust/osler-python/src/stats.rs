//! What an index says of itself: its statistics as a dict, and in a line of words.

use osler_core::form::Keep;
use osler_core::index::Stats;
use osler_core::state::Params;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The recall that a search has by default.
const RECALL: f32 = 0.95;

/// The dict that `Index.stats` returns.
pub fn as_dict(py: Python<'_>, stats: Stats) -> PyResult<Bound<'_, PyDict>> {
    let Stats {
        params,
        live,
        deleted,
        bytes,
        scores_from,
        scans_codes,
        nodes,
        calibration,
        read_only,
    } = stats;
    let stats = PyDict::new(py);
    stats.set_item("count", live)?;
    stats.set_item("dim", params.dim)?;
    stats.set_item("metric", params.metric.name())?;
    stats.set_item("codes", params.codes.name())?;
    stats.set_item("keep_vectors", params.keep.name())?;
    stats.set_item("scores_from", scores_from)?;
    stats.set_item("seed", params.seed)?;
    let search = match (&nodes, scans_codes) {
        (Some(_), _) => "hnsw",
        (None, true) => "scan",
        (None, false) => "exact",
    };
    stats.set_item("search", search)?;
    stats.set_item("blocks", nodes.map(Vec::from))?;
    stats.set_item("deleted", deleted)?;
    stats.set_item("bytes", bytes.total())?;
    stats.set_item("bytes_vectors", bytes.vectors)?;
    stats.set_item("bytes_codes", bytes.codes)?;
    stats.set_item("bytes_graph", bytes.graph)?;
    stats.set_item("bytes_keys", bytes.keys)?;
    stats.set_item("bytes_resident", bytes.total() - bytes.on_disk)?;
    stats.set_item("bytes_on_disk", bytes.on_disk)?;
    stats.set_item("read_only", read_only)?;
    stats.set_item("simd", osler_kernels::level().name())?;
    let recall = calibration.as_ref().and_then(|c| c.measured(10, RECALL));
    let curve = calibration.map(|calibration| {
        let curve = PyDict::new(py);
        let points = calibration.points.iter().map(|p| {
            let point = PyDict::new(py);
            point.set_item("k", p.k)?;
            point.set_item("ef", p.ef)?;
            point.set_item("recall", p.recall)?;
            point.set_item("lower_bound", p.lower)?;
            Ok(point)
        });
        curve.set_item("rows", calibration.rows)?;
        curve.set_item("queries", calibration.queries)?;
        curve.set_item("points", points.collect::<PyResult<Vec<_>>>()?)?;
        Ok::<_, PyErr>(curve)
    });
    stats.set_item("calibration", curve.transpose()?)?;
    stats.set_item("recall", recall)?;
    Ok(stats)
}

/// The text that `repr` returns.
pub fn in_words(stats: &Stats) -> String {
    let measured = match (
        stats.nodes.is_some() || stats.scans_codes,
        stats
            .calibration
            .as_ref()
            .and_then(|c| c.measured(10, RECALL)),
    ) {
        (false, _) => ", exact".to_owned(),
        (true, Some(recall)) => format!(", recall@10 {recall:.3} measured"),
        (true, None) => String::new(),
    };
    let Params {
        dim,
        metric,
        codes,
        keep,
        ..
    } = stats.params;
    let keep = match keep {
        Keep::Ram => "",
        Keep::Disk => ", vectors on disk",
        Keep::Nowhere => ", no vectors",
    };
    let read_only = if stats.read_only { ", read-only" } else { "" };
    let count = grouped(stats.live);
    format!(
        "<osler.Index {count} x {dim}, {}, {}{keep}{measured}{read_only}>",
        metric.name(),
        codes.name()
    )
}

fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
