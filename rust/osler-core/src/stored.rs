//! A snapshot to the sections of an index file and back. The only module that knows both.

use std::sync::Arc;

use bytemuck::Pod;

use crate::calibrate::{Calibration, Point};
use crate::chunks::Rows;
use crate::codes::CodeTable;
use crate::error::Result;
use crate::file::{Reader, Section, kind};
use crate::graph::Graph;
use crate::graph::frame::Frame;
use crate::graph::node::{Blocks, Layout, SIZES};
use crate::keys::Keys;
use crate::metric::Metric;
use crate::quantize::{LANES, Method, Quantizer};
use crate::select::RowSet;
use crate::state::{MAX_DIM, Params, State};
use crate::tables::{section, table_within};
use crate::vectors::{Codes, Keep, Vectors};

/// Numbers of the settings section, in order.
const SETTINGS: usize = 13;

/// Owns the tables that exist only for writing.
pub struct Tables {
    settings: Rows<u64>,
    calibration: Option<Rows<f32>>,
    frame: Option<Rows<f32>>,
    quantizer: Option<Rows<f32>>,
}

fn metric_number(metric: Metric) -> u64 {
    match metric {
        Metric::Cosine => 1,
        Metric::Dot => 2,
        Metric::L2 => 3,
    }
}

/// Codes as three numbers: which, and their parameters.
fn codes_numbers(codes: Codes) -> [u64; 3] {
    match codes {
        Codes::F32 => [1, 0, 0],
        Codes::F16 => [2, 0, 0],
        Codes::Sq8 => [6, 0, 8],
        Codes::Sq5 => [6, 0, 5],
        Codes::Small(Method::Pq { parts, bits }) => [4, parts as u64, bits as u64],
        Codes::Small(Method::Rabitq { bits }) => [5, 0, bits as u64],
    }
}

fn codes_of(numbers: [u64; 3], dim: usize) -> Option<Codes> {
    let name = match numbers {
        [1, 0, 0] => "f32".to_owned(),
        [2, 0, 0] => "f16".to_owned(),
        [6, 0, bits @ (5 | 8)] => format!("sq{bits}"),
        [4, parts, bits] => format!("pq:{parts}x{bits}"),
        [5, 0, bits] => format!("rabitq:{bits}"),
        _ => return None,
    };
    Codes::parse(&name, dim).ok()
}

fn keep_number(keep: Keep) -> u64 {
    match keep {
        Keep::Ram => 1,
        Keep::Disk => 2,
        Keep::Nowhere => 3,
    }
}

fn keep_of(number: u64) -> Option<Keep> {
    let places = [Keep::Ram, Keep::Disk, Keep::Nowhere];
    places.into_iter().find(|&keep| keep_number(keep) == number)
}

impl Tables {
    /// The tables of a snapshot without deleted rows.
    pub fn new(state: &State) -> Self {
        let Params {
            dim,
            metric,
            codes,
            keep,
            seed,
        } = state.params;
        let [codes, parts, bits] = codes_numbers(codes);
        let calibration = state.calibration.as_deref();
        let settings = [
            dim as u64,
            metric_number(metric),
            codes,
            seed,
            state.rows() as u64,
            state.keys.next(),
            u64::from(state.radius.to_bits()),
            calibration.map_or(0, |c| c.rows as u64),
            calibration.map_or(0, |c| c.queries as u64),
            keep_number(keep),
            parts,
            bits,
            state
                .codes
                .as_ref()
                .map_or(0, |codes| codes.trained() as u64),
        ];
        let points = calibration.map(|c| {
            let mut rows = Rows::new(4);
            for p in &c.points {
                rows.push(&[p.k as f32, p.ef as f32, p.recall, p.lower])
                    .expect("a table in memory has no damage");
            }
            rows
        });
        let frame = state.graph.as_ref().map(|graph| {
            let frame = graph.frame();
            let mut numbers = frame.centre().to_vec();
            numbers.push(frame.per_unit());
            Rows::from_values(&numbers)
        });
        Tables {
            settings: Rows::from_values(&settings),
            calibration: points,
            frame,
            quantizer: state
                .codes
                .as_ref()
                .map(|codes| Rows::from_values(&codes.quantizer().floats())),
        }
    }

    /// The sections of the file, in order.
    pub fn sections<'a>(&'a self, state: &'a State) -> Vec<Section<'a>> {
        let mut sections = vec![section(kind::SETTINGS, 0, &self.settings)];
        match &state.vectors {
            _ if state.bare > 0 => {}
            Vectors::F32(rows) => sections.push(section(kind::VECTORS, 0, rows)),
            Vectors::F16(rows) => sections.push(section(kind::VECTORS, 0, rows)),
        }
        sections.push(section(kind::KEYS, 0, state.keys.rows()));
        if let Some(lifts) = &state.lifts {
            sections.push(section(kind::LIFTS, 0, lifts));
        }
        if let (Some(codes), Some(quantizer)) = (&state.codes, &self.quantizer) {
            sections.push(section(kind::QUANTIZER, 0, quantizer));
            sections.push(section(kind::CODES, 0, codes.blocks()));
        }
        if let (Some(graph), Some(frame)) = (&state.graph, &self.frame) {
            let tables = graph.tables();
            sections.push(section(kind::FRAME, 0, frame));
            sections.push(section(kind::ROOTS, 0, tables.roots));
            sections.push(section(kind::NODE_OF, 0, tables.node_of));
            for size in 0..SIZES {
                sections.push(section(kind::NODES, size as u32, &tables.nodes[size]));
                sections.push(section(kind::NODE_ROWS, size as u32, &tables.rows[size]));
                if let Some(fronts) = tables.fronts {
                    sections.push(section(kind::FRONTS, size as u32, &fronts[size]));
                }
            }
        }
        if let Some(points) = &self.calibration {
            sections.push(section(kind::CALIBRATION, 0, points));
        }
        sections
    }
}

/// Whether the index in a file keeps its vectors on disk.
///
/// # Errors
/// [`crate::error::Error::Corrupt`].
pub fn keeps_on_disk(reader: &Reader) -> Result<bool> {
    let settings: Vec<u64> = table::<u64>(reader, kind::SETTINGS, 0)?.to_vec()?;
    Ok(settings.get(9) == Some(&keep_number(Keep::Disk)))
}

/// The snapshot in a file. Vectors and links are read when they are touched.
///
/// # Errors
/// [`crate::error::Error::Corrupt`] if the sections do not fit each other.
pub fn load(reader: Reader) -> Result<State> {
    let settings: Vec<u64> = table::<u64>(&reader, kind::SETTINGS, 0)?.to_vec()?;
    let bad = |problem| reader.damage(kind::SETTINGS, problem);
    let &[
        dim,
        metric,
        codes,
        seed,
        rows,
        next,
        radius,
        calibrated,
        queries,
        keep,
        parts,
        bits,
        trained,
    ] = &settings[..]
    else {
        return Err(bad("it has another number of settings"));
    };
    debug_assert_eq!(settings.len(), SETTINGS);
    let metric = match metric {
        1 => Metric::Cosine,
        2 => Metric::Dot,
        3 => Metric::L2,
        _ => return Err(bad("the metric is unknown")),
    };
    if !(1..=MAX_DIM as u64).contains(&dim) {
        return Err(bad("dim is out of range"));
    }
    let codes = codes_of([codes, parts, bits], dim as usize);
    let codes = codes.ok_or_else(|| bad("the codes are unknown"))?;
    let keep = keep_of(keep).ok_or_else(|| bad("the place of vectors is unknown"))?;
    let params = Params {
        dim: dim as usize,
        metric,
        codes,
        keep,
        seed,
    }
    .check()
    .map_err(|_| bad("dim is out of range"))?;
    let rows = usize::try_from(rows)
        .ok()
        .filter(|&n| n < crate::queue::MAX_ROWS as usize);
    let rows = rows.ok_or_else(|| bad("there are too many rows"))?;
    let sized = |kind: u32, have: (usize, usize), want: (usize, usize)| {
        if have == want {
            Ok(())
        } else {
            Err(reader.damage(kind, "it has another size than the settings say"))
        }
    };
    let linked = reader.count(kind::NODES) > 0 || reader.count(kind::CODES) > 0;
    let bare = if keep == Keep::Nowhere && linked {
        rows
    } else {
        0
    };
    let size = (rows, params.dim);
    let vectors = match codes {
        _ if bare > 0 => Vectors::new(codes, params.dim),
        Codes::F32 | Codes::Sq8 | Codes::Sq5 | Codes::Small(_) => {
            let table = table::<f32>(&reader, kind::VECTORS, 0)?;
            sized(kind::VECTORS, (table.len(), table.width()), size)?;
            Vectors::F32(table)
        }
        Codes::F16 => {
            let table = table::<u16>(&reader, kind::VECTORS, 0)?;
            sized(kind::VECTORS, (table.len(), table.width()), size)?;
            Vectors::F16(table)
        }
    };
    let keys = table::<u64>(&reader, kind::KEYS, 0)?;
    sized(kind::KEYS, (keys.len(), keys.width()), (rows, 1))?;
    let keys = Keys::stored(keys, next);
    let lifts = match metric {
        Metric::Dot => {
            let lifts = table::<f32>(&reader, kind::LIFTS, 0)?;
            sized(kind::LIFTS, (lifts.len(), lifts.width()), (rows, 1))?;
            Some(lifts)
        }
        _ => None,
    };
    let codes = if reader.count(kind::CODES) == 0 {
        None
    } else {
        Some(code_table(&reader, params, rows, trained)?)
    };
    if reader.count(kind::NODES) > 0 && params.codes.method().is_some() {
        return Err(bad("there is a graph where the codes need none"));
    }
    let graph = if reader.count(kind::NODES) == 0 {
        None
    } else {
        Some(graph(&reader, params, rows)?)
    };
    let calibration = if reader.count(kind::CALIBRATION) == 0 {
        None
    } else {
        let table = table::<f32>(&reader, kind::CALIBRATION, 0)?;
        sized(
            kind::CALIBRATION,
            (table.len(), table.width()),
            (table.len(), 4),
        )?;
        let points = table
            .to_vec()?
            .chunks_exact(4)
            .map(|p| Point {
                k: p[0] as u32,
                ef: p[1] as u32,
                recall: p[2],
                lower: p[3],
            })
            .collect();
        // Rows that were deleted since count here: what was measured with many rows serves few as well.
        if calibrated > u64::from(crate::queue::MAX_ROWS) {
            return Err(bad("it was calibrated with more rows than an index holds"));
        }
        Some(Arc::new(Calibration {
            rows: calibrated as usize,
            queries: queries as usize,
            points,
        }))
    };
    Ok(State {
        vectors,
        lifts,
        radius: f32::from_bits(radius as u32),
        keys,
        deleted: Arc::new(RowSet::empty(rows)),
        graph,
        codes,
        bare,
        spooled: if keep == Keep::Disk && reader.is_mapped() {
            rows
        } else {
            0
        },
        calibration,
        reader: Some(Arc::new(reader)),
        ..State::empty(params)
    })
}

/// The codes of `rows` rows.
fn code_table(reader: &Reader, params: Params, rows: usize, trained: u64) -> Result<CodeTable> {
    let Params {
        dim,
        metric,
        codes,
        seed,
        ..
    } = params;
    let method = codes.method();
    let method = method.ok_or_else(|| reader.damage(kind::CODES, "the settings name no codes"))?;
    let width = LANES.saturating_mul(method.bytes(metric, dim));
    let blocks = table_within::<u8>(reader, kind::CODES, 0, width)?;
    let floats = table::<f32>(reader, kind::QUANTIZER, 0)?.to_vec()?;
    let quantizer = Quantizer::from_floats(method, metric, dim, seed, &floats)
        .ok_or_else(|| reader.damage(kind::QUANTIZER, "it is no quantizer of these codes"))?;
    let trained = usize::try_from(trained).unwrap_or(usize::MAX);
    CodeTable::from_blocks(quantizer, blocks, rows, trained)
        .ok_or_else(|| reader.damage(kind::CODES, "it has another size than the settings say"))
}

/// The graph over `rows` rows.
fn graph(reader: &Reader, params: Params, rows: usize) -> Result<Graph> {
    let dim = params.dim + usize::from(params.metric == Metric::Dot);
    let numbers = table::<f32>(reader, kind::FRAME, 0)?;
    let mut centre = numbers.to_vec()?;
    let per_unit = centre.pop().unwrap_or(0.0);
    let bad = || reader.damage(kind::FRAME, "it is no centre and unit of vectors");
    if centre.len() != dim {
        return Err(bad());
    }
    let blocks = params.codes.blocks().unwrap_or(Blocks::Fused);
    let frame = Frame::new(centre, per_unit, blocks, params.seed);
    if !frame.is_sound() {
        return Err(bad());
    }
    let sized = |kind: u32| -> Result<[Rows<u32>; SIZES]> {
        Ok([table(reader, kind, 0)?, table(reader, kind, 1)?])
    };
    let (nodes, node_rows) = (sized(kind::NODES)?, sized(kind::NODE_ROWS)?);
    let fronts = match blocks {
        Blocks::Fused => None,
        Blocks::Single8 | Blocks::Single5 => Some(sized(kind::FRONTS)?),
    };
    let node_of = table::<u32>(reader, kind::NODE_OF, 0)?;
    if node_of.len() != rows {
        return Err(reader.damage(kind::NODE_OF, "it has another size than the settings say"));
    }
    let roots = table::<u32>(reader, kind::ROOTS, 0)?;
    Graph::from_tables(frame, nodes, fronts, node_rows, roots, node_of, params.seed)
        .map_err(|problem| reader.damage(kind::NODES, problem))
}

fn table<T: Pod>(reader: &Reader, kind: u32, number: u32) -> Result<Rows<T>> {
    table_within(reader, kind, number, MAX_WIDTH)
}

/// Longest row of a table: the block of a node with the greatest dimension.
const MAX_WIDTH: usize = Layout::new(Blocks::Fused, (MAX_DIM + 1).next_multiple_of(64), 1).words();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::file::map::Map;
    use crate::file::to_bytes;
    use crate::index::Index;
    use crate::pool::Control;
    use crate::random::Stream;

    const DIM: usize = 9;

    fn index(codes: Codes, keep: Keep) -> Index {
        let index = Index::new(Params {
            dim: DIM,
            metric: Metric::L2,
            codes,
            keep,
            seed: 1,
        })
        .unwrap();
        let mut stream = Stream::new(5, 5, 5);
        let rows = (0..2040 * DIM).map(|_| stream.below(1000) as f32 / 100.0);
        let control = Control::default();
        index.add(rows.collect(), None, 2, &control).unwrap();
        index
    }

    fn reopened(tables: &Tables, state: &State) -> Result<State> {
        let bytes = to_bytes(&tables.sections(state), &|| Ok(())).unwrap();
        let state = load(Reader::new(Map::owned(&bytes, "hostile"))?)?;
        state.check()?;
        Ok(state)
    }

    fn is_damage(result: Result<State>) -> bool {
        matches!(result.err(), Some(Error::Corrupt(_)))
    }

    /// Files whose checksums are right, as only one who means harm would write them.
    #[test]
    fn settings_that_make_no_sense_are_damage_and_no_panic() {
        let pq = Codes::Small(Method::Pq { parts: 3, bits: 4 });
        for (codes, keep) in [
            (Codes::F32, Keep::Disk),
            (Codes::F16, Keep::Nowhere),
            (pq, Keep::Nowhere),
            (Codes::Small(Method::Rabitq { bits: 3 }), Keep::Ram),
            (Codes::Sq8, Keep::Disk),
        ] {
            let index = index(codes, keep);
            let state = index.snapshot();
            assert!(reopened(&Tables::new(&state), &state).is_ok());
            for setting in 0..SETTINGS {
                for hostile in [0, 1, 2, 3, 4, 5, 8, 1 << 16, 1 << 40, u64::MAX] {
                    let mut tables = Tables::new(&state);
                    let was = tables.settings.value(setting).unwrap();
                    tables.settings.row_mut(setting).unwrap()[0] = hostile;
                    let result = reopened(&tables, &state);
                    let is_known = matches!(setting, 0 | 4 | 10 | 11)
                        || (setting == 2 && (keep != Keep::Nowhere || hostile > 2))
                        || (setting == 9 && !(1..=3).contains(&hostile));
                    assert!(
                        !is_known || hostile == was || is_damage(result),
                        "{codes:?} {keep:?} setting {setting} {hostile}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_quantizer_or_codes_of_another_size_are_damage() {
        let method = Method::Pq { parts: 3, bits: 4 };
        let index = index(Codes::Small(method), Keep::Ram);
        let state = index.snapshot();
        let right = state.codes.as_ref().unwrap().quantizer().floats();
        let mut infinite = right.clone();
        infinite[3] = f32::INFINITY;
        let hostile = [
            vec![],
            right[1..].to_vec(),
            infinite,
            [&right[..], &[1.0]].concat(),
        ];
        for floats in hostile {
            let mut tables = Tables::new(&state);
            tables.quantizer = Some(Rows::from_values(&floats));
            assert!(is_damage(reopened(&tables, &state)));
        }
        for width in [1, 31, 32 * method.bytes(Metric::L2, DIM), 5000] {
            let mut blocks = Rows::<u8>::new(width);
            (0..63).for_each(|_| blocks.push(&vec![7; width]).unwrap());
            let quantizer = state.codes.as_ref().unwrap().quantizer().clone();
            assert!(CodeTable::from_blocks(quantizer, blocks, 2040, 2040).is_none());
        }
    }

    #[test]
    fn a_code_that_is_no_number_is_damage() {
        for method in [Method::Rabitq { bits: 1 }, Method::Rabitq { bits: 4 }] {
            let index = index(Codes::Small(method), Keep::Nowhere);
            let mut state = State::clone(&index.snapshot());
            let codes = state.codes.take().unwrap();
            let (quantizer, mut blocks) = (codes.quantizer().clone(), codes.blocks().clone());
            blocks.row_mut(7).unwrap().fill(0xff);
            state.codes = CodeTable::from_blocks(quantizer, blocks, 2040, 2040);
            assert!(is_damage(reopened(&Tables::new(&state), &state)));
        }
    }
}
