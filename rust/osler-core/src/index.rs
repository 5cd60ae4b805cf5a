//! `Index`: the parts of the engine behind one type, with one snapshot for readers and one writer at a time.
//!
//! A write clones the snapshot, changes the clone and publishes it at its end, so a call that fails or is stopped
//! changes nothing, and a search sees one state from beginning to end.

use std::path::Path;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::calibrate::Calibration;
use crate::chunks::Rows;
use crate::codes::CodeTable;
use crate::error::{Damage, Error, Result};
use crate::file::{self, Reader, kind, map::Map};
use crate::fs::Storage;
use crate::graph::Graph;
use crate::graph::scratch::Scratches;
use crate::group::{GroupId, Items, ItemsOnce};
use crate::items::{self, ItemAnswers, ItemAsk};
use crate::maintain::{append, checked_keys, compacted, linked};
use crate::measure::{measure, measure_rows, sample};
use crate::pool::{Control, Pool, ProcessLock};
use crate::query::{self, Answers, Ask};
use crate::select::{RowSet, SetOnce};
use crate::state::{Params, State, exact_below};
use crate::stored;

/// Deleted rows are dropped when they are more than one in this many.
const COMPACT_SHARE: usize = 5;

/// Numbers of vectors that are looked at one by one before they are added.
const FEW: usize = 1 << 16;

/// About as many multiplications of a row's length go into linking a row, or a walk.
const ROWS_PER_LINKED: usize = 1000;

/// A set of rows that the user prepared, in the numbering of one moment.
#[derive(Clone)]
pub struct Prepared<T> {
    index: Arc<()>,
    numbering: u64,
    _users: Arc<()>,
    /// The set, or one value a row.
    pub value: T,
}

/// An index of vectors under keys.
pub struct Index {
    state: ArcSwap<State>,
    writer: ProcessLock<()>,
    identity: Arc<()>,
    pool: Pool,
    scratches: Scratches,
    read_only: bool,
}

/// Bytes of the parts of an index.
#[derive(Clone, Copy, Debug, Default)]
pub struct Bytes {
    /// Full vectors.
    pub vectors: usize,
    /// Small codes.
    pub codes: usize,
    /// Blocks and names of the graph.
    pub graph: usize,
    /// Keys, and coordinates that lift rows.
    pub keys: usize,
    /// Of all of these, what lies in a file and not in memory.
    pub on_disk: usize,
}

impl Bytes {
    /// All parts.
    pub fn total(&self) -> usize {
        self.vectors + self.codes + self.graph + self.keys
    }
}

/// Sizes and settings, for people.
#[derive(Clone, Debug)]
pub struct Stats {
    /// What never changes.
    pub params: Params,
    /// Live rows.
    pub live: usize,
    /// Rows that were deleted but still lead a walk.
    pub deleted: usize,
    /// Bytes of each part.
    pub bytes: Bytes,
    /// What scores come from.
    pub scores_from: String,
    /// Whether small codes are scanned.
    pub scans_codes: bool,
    /// Nodes with blocks for 16 and for 32 neighbours; None: there is no graph and every search is exact.
    pub nodes: Option<[usize; 2]>,
    /// What was measured.
    pub calibration: Option<Arc<Calibration>>,
    /// Whether it is a mapped file that cannot be changed.
    pub read_only: bool,
}

impl Index {
    fn with_state(state: State, read_only: bool) -> Self {
        Index {
            state: ArcSwap::from_pointee(state),
            writer: ProcessLock::default(),
            identity: Arc::new(()),
            pool: Pool::default(),
            scratches: Scratches::default(),
            read_only,
        }
    }

    /// An empty index in memory.
    ///
    /// # Errors
    /// [`Error::Input`] if `dim` is out of range.
    pub fn new(params: Params) -> Result<Self> {
        Ok(Self::with_state(State::empty(params.check()?), false))
    }

    /// An index of the same rows, which changes on its own; what neither changes they share.
    pub fn duplicate(&self) -> Self {
        Self::with_state((*self.snapshot()).clone(), self.read_only)
    }

    /// Opens a file: mapped and read-only, or copied into memory and changeable.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Corrupt`], [`Error::Version`].
    pub fn open(
        storage: &dyn Storage,
        path: &Path,
        mapped: bool,
        control: &Control,
    ) -> Result<Self> {
        let reader = Reader::new(Map::open(storage, path)?)?;
        if mapped {
            return Ok(Self::with_state(stored::load(reader)?, true));
        }
        if stored::keeps_on_disk(&reader)? {
            // The map keeps the file's bytes, whatever happens to its name.
            return Self::checked(reader, Some(kind::VECTORS), control);
        }
        Self::from_map(Map::read(storage, path)?, control)
    }

    /// The index whose file has these bytes, in memory and changeable.
    ///
    /// # Errors
    /// [`Error::Corrupt`], [`Error::Version`].
    pub fn from_bytes(bytes: &[u8], control: &Control) -> Result<Self> {
        Self::from_map(Map::owned(bytes, "the pickled index"), control)
    }

    fn from_map(map: Map, control: &Control) -> Result<Self> {
        Self::checked(Reader::new(map)?, None, control)
    }

    /// The index of a file that is read to its end; but for sections of kind `mapped` it is then in memory.
    fn checked(reader: Reader, mapped: Option<u32>, control: &Control) -> Result<Self> {
        let reader = match mapped {
            Some(kind) => reader.in_memory_but(kind),
            None => reader,
        };
        // What is verified is what stays, not what it was copied from.
        if let Some(damage) = reader.verify(&|| control.check())?.into_iter().next() {
            return Err(damage.into());
        }
        let mut state = stored::load(reader)?;
        state.check()?;
        state.spool()?;
        Ok(Self::with_state(state, false))
    }

    /// Today's snapshot.
    pub fn snapshot(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// What never changes.
    pub fn params(&self) -> Params {
        self.state.load().params
    }

    /// Changes a copy of the snapshot while nobody else writes, and publishes it unless that fails or is stopped.
    fn write<R>(
        &self,
        control: &Control,
        change: impl FnOnce(&mut State) -> Result<R>,
    ) -> Result<R> {
        if self.read_only {
            return Err(Error::ReadOnly);
        }
        self.writer.with(|()| {
            let mut state = State::clone(&self.state.load());
            let result = change(&mut state)?;
            control.check()?;
            self.state.store(Arc::new(state));
            Ok(result)
        })
    }

    /// Adds `vectors` (row-major) under `keys`, or under the next default keys; returns the keys.
    ///
    /// # Errors
    /// [`Error::Input`] for vectors or keys that cannot be used, [`Error::ReadOnly`], [`Error::Cancelled`]; nothing was
    /// changed then.
    pub fn add(
        &self,
        mut vectors: Vec<f32>,
        keys: Option<&[u64]>,
        threads: usize,
        control: &Control,
    ) -> Result<Vec<u64>> {
        self.write(control, |state| {
            let keys = checked_keys(state, vectors.len() / state.params.dim, keys)?;
            if state.live() + keys.len() < exact_below() {
                append(state, &mut vectors, &keys, false)?;
                return Ok(keys);
            }
            *state = self.pool.run(threads, || {
                append(state, &mut vectors, &keys, true)?;
                drop(vectors);
                linked(state.clone(), &self.scratches, control)
            })?;
            Ok(keys)
        })
    }

    /// About how many multiplications an add of some vectors takes.
    pub fn cost_of_add(&self, vectors: &[f32]) -> usize {
        let state = self.state.load();
        let count = vectors.len() / state.params.dim;
        let apart = match &state.graph {
            // Many vectors take long in any case.
            Some(graph) if vectors.len() < FEW => vectors
                .chunks_exact(state.params.dim)
                .any(|vector| !graph.frame().reaches(vector)),
            _ => false,
        };
        let linked = match state.is_linked() {
            true if apart => state.live() + count,
            true => count,
            false if state.live() + count < exact_below() => 0,
            false => state.live() + count,
        };
        let scored = linked.saturating_mul(ROWS_PER_LINKED);
        scored
            .saturating_add(count)
            .saturating_mul(state.params.dim)
    }

    /// About how many multiplications a search takes; `exact` says that it scores every row.
    pub fn cost_of_search(&self, queries: usize, exact: bool) -> usize {
        let state = self.state.load();
        let scored = match (&state.graph, &state.codes) {
            (Some(_), _) if !exact => ROWS_PER_LINKED,
            (_, Some(_)) if !exact => state.rows() / 16 + ROWS_PER_LINKED,
            _ => state.rows(),
        };
        queries
            .saturating_mul(scored)
            .saturating_mul(state.params.dim)
    }

    /// Deletes the rows of `keys`; returns how many were there.
    ///
    /// # Errors
    /// [`Error::ReadOnly`], [`Error::Cancelled`], [`Error::Corrupt`]; nothing was changed then.
    pub fn delete(&self, keys: &[u64], threads: usize, control: &Control) -> Result<usize> {
        self.write(control, |state| {
            let rows = state.rows();
            let deleted = Arc::make_mut(&mut state.deleted);
            deleted.grow(rows);
            let mut count = 0;
            for &key in keys {
                if let Some(row) = state.keys.row(key)? {
                    count += usize::from(deleted.insert(row));
                }
            }
            state.dead += count;
            if state.dead * COMPACT_SHARE > state.rows() {
                *state = self
                    .pool
                    .run(threads, || compacted(state, &self.scratches, control))?;
            }
            Ok(count)
        })
    }

    /// Brings queries (row-major) into the form that searches take.
    ///
    /// # Errors
    /// [`Error::Input`] for values that cannot be scored.
    pub fn prepare(&self, queries: &mut [f32]) -> Result<()> {
        let Params { dim, metric, .. } = self.params();
        queries
            .chunks_exact_mut(dim)
            .enumerate()
            .try_for_each(|(at, query)| metric.prepare(query, "queries", at))
    }

    /// Answers prepared queries over one snapshot; one query runs on the caller's thread.
    ///
    /// # Errors
    /// [`Error::Input`] for options that make no sense, [`Error::Corrupt`], [`Error::Cancelled`].
    pub fn search(
        &self,
        state: &State,
        queries: &[f32],
        ask: Ask<'_>,
        threads: usize,
        control: &Control,
    ) -> Result<Answers> {
        query::search(
            state,
            queries,
            ask,
            threads,
            &self.pool,
            &self.scratches,
            control,
        )
    }

    /// Finds items for sets of prepared vectors over one snapshot: query i has the vectors `offsets[i]..offsets[i + 1]`.
    ///
    /// # Errors
    /// [`Error::Input`] for options that make no sense, [`Error::Corrupt`], [`Error::Cancelled`].
    pub fn search_items(
        &self,
        state: &State,
        vectors: &[f32],
        offsets: &[usize],
        ask: ItemAsk<'_>,
        threads: usize,
        control: &Control,
    ) -> Result<ItemAnswers> {
        let engine = items::Engine {
            state,
            pool: &self.pool,
            scratches: &self.scratches,
            threads,
            control,
        };
        items::search(&engine, vectors, offsets, ask)
    }

    /// Every row that scores at least `threshold`, best first, for each prepared query.
    ///
    /// # Errors
    /// [`Error::Input`], [`Error::Corrupt`], [`Error::Cancelled`].
    pub fn search_range(
        &self,
        state: &State,
        queries: &[f32],
        threshold: f32,
        allowed: Option<&RowSet>,
        threads: usize,
        control: &Control,
    ) -> Result<Vec<Vec<(u64, f32)>>> {
        query::search_range(
            state, queries, threshold, allowed, threads, &self.pool, control,
        )
    }

    /// The stored vectors of `keys`, row-major.
    ///
    /// # Errors
    /// [`Error::MissingKey`] for the first that is not there, [`Error::Corrupt`].
    pub fn get(&self, keys: &[u64]) -> Result<Vec<f32>> {
        let state = self.state.load();
        let dim = state.params.dim;
        let rows = keys
            .iter()
            .map(|&key| state.row(key)?.ok_or(Error::MissingKey(key)))
            .collect::<Result<Vec<u32>>>()?;
        let mut out = vec![0.0; rows.len() * dim];
        for (row, out) in rows.iter().zip(out.chunks_exact_mut(dim)) {
            state.vector(*row, out)?;
        }
        Ok(out)
    }

    /// A set from a mask aligned with the live keys of a snapshot.
    ///
    /// # Errors
    /// [`Error::Input`] if the mask has another length.
    pub fn mask(&self, state: &State, mask: &[bool]) -> Result<RowSet> {
        if mask.len() != state.live() {
            return Err(Error::input(format!(
                "the mask has {} entries, this index has {} keys; align it with index.keys",
                mask.len(),
                state.live()
            )));
        }
        let mut set = RowSet::empty(state.rows());
        for (row, _) in state.live_rows().zip(mask).filter(|(_, keep)| **keep) {
            set.insert(row);
        }
        Ok(set)
    }

    /// A set from keys; unknown ones are ignored.
    ///
    /// # Errors
    /// [`Error::Corrupt`].
    pub fn keyed(&self, state: &State, keys: &[u64]) -> Result<RowSet> {
        let mut set = RowSet::empty(state.rows());
        for &key in keys {
            if let Some(row) = state.row(key)? {
                set.insert(row);
            }
        }
        Ok(set)
    }

    /// One group a row, from ids aligned with the live keys of a snapshot; deleted rows are in no group.
    ///
    /// # Errors
    /// [`Error::Input`] if there is another number of ids.
    pub fn groups(&self, state: &State, ids: &[GroupId]) -> Result<Vec<GroupId>> {
        if ids.len() != state.live() {
            return Err(Error::input(format!(
                "groups has {} entries, this index has {} keys; align it with index.keys",
                ids.len(),
                state.live()
            )));
        }
        let mut groups = vec![GroupId::MIN; state.rows()];
        for (row, &id) in state.live_rows().zip(ids) {
            groups[row as usize] = id;
        }
        Ok(groups)
    }

    /// Binds a value of one snapshot to this index, to be used with later ones.
    pub fn bind<T>(&self, state: &State, value: T) -> Prepared<T> {
        Prepared {
            index: self.identity.clone(),
            numbering: state.numbering,
            _users: state.users.clone(),
            value,
        }
    }

    fn moved<T, R>(
        &self,
        state: &State,
        prepared: &Prepared<T>,
        what: &str,
        with: impl FnOnce(&dyn Fn(u32) -> Option<u32>) -> R,
    ) -> Result<R> {
        if !Arc::ptr_eq(&self.identity, &prepared.index) {
            return Err(Error::input(format!(
                "this {what} was prepared by another index; prepare it with this one"
            )));
        }
        let translate = (prepared.numbering <= state.numbering)
            .then(|| state.translate(prepared.numbering))
            .flatten();
        let translate = translate
            .ok_or_else(|| Error::input(format!("this {what} is out of date; prepare it again")))?;
        Ok(with(&translate))
    }

    /// The live rows of a prepared set in the numbering of a snapshot, kept in `once`.
    ///
    /// # Errors
    /// [`Error::Input`] if another index prepared it.
    pub fn prepared_set(
        &self,
        state: &State,
        set: &Prepared<RowSet>,
        once: &SetOnce,
    ) -> Result<Arc<RowSet>> {
        self.moved(state, set, "bitmap", |translate| {
            once.get(state.numbering, &state.deleted, || {
                let live = |value: &RowSet| value.combine(&state.deleted, |a, gone| a & !gone);
                if set.numbering == state.numbering {
                    return live(&set.value);
                }
                let mut moved = RowSet::empty(state.rows());
                for row in set.value.iter().filter_map(translate) {
                    moved.insert(row);
                }
                live(&moved)
            })
        })
    }

    /// Prepared groups in the numbering of a snapshot.
    ///
    /// # Errors
    /// [`Error::Input`] if another index prepared them.
    pub fn prepared_groups(
        &self,
        state: &State,
        groups: &Prepared<Arc<[GroupId]>>,
    ) -> Result<Arc<[GroupId]>> {
        self.moved(state, groups, "grouping", |translate| {
            if groups.numbering == state.numbering {
                return groups.value.clone();
            }
            let mut moved = Vec::new();
            for (row, &id) in groups.value.iter().enumerate() {
                if let Some(to) = translate(row as u32) {
                    moved.resize(moved.len().max(to as usize + 1), GroupId::MIN);
                    moved[to as usize] = id;
                }
            }
            moved.into()
        })
    }

    /// Prepared groups as items in the numbering of a snapshot, kept in `once`.
    ///
    /// # Errors
    /// [`Error::Input`] if another index prepared them.
    pub fn prepared_items(
        &self,
        state: &State,
        groups: &Prepared<Arc<[GroupId]>>,
        once: &ItemsOnce,
    ) -> Result<Arc<Items>> {
        self.moved(state, groups, "grouping", |_| ())?;
        once.get(state.numbering, || {
            Ok(Items::new(self.prepared_groups(state, groups)?))
        })
    }

    /// Measures the recall curve with these prepared queries, and keeps it.
    ///
    /// # Errors
    /// [`Error::Input`] without queries, [`Error::ReadOnly`], [`Error::Cancelled`].
    pub fn calibrate(
        &self,
        queries: Option<&[f32]>,
        threads: usize,
        control: &Control,
    ) -> Result<()> {
        if queries.is_some_and(<[f32]>::is_empty) {
            return Err(Error::input(
                "queries is empty; give some hundred that are like those to come",
            ));
        }
        self.write(control, |state| {
            if !state.is_linked() {
                return Ok(());
            }
            let measured = self.pool.run(threads, || match queries {
                Some(queries) => measure(state, queries, None, &self.scratches, control),
                None => measure_rows(state, &sample(state)?, &self.scratches, control),
            })?;
            state.calibration = measured.map(Arc::new);
            Ok(())
        })
    }

    /// The snapshot without deleted rows.
    fn settled(&self, threads: usize, control: &Control) -> Result<Arc<State>> {
        let state = self.snapshot();
        if state.dead == 0 {
            return Ok(state);
        }
        self.write(control, |state| {
            if state.dead > 0 {
                *state = self
                    .pool
                    .run(threads, || compacted(state, &self.scratches, control))?;
            }
            Ok(Arc::new(state.clone()))
        })
    }

    /// Writes the index to one file; rows that were deleted are dropped first, so no byte of them is in it.
    ///
    /// # Errors
    /// [`Error::Io`]; a file that was at `path` is then as it was, unless only the last sync failed.
    pub fn save(
        &self,
        storage: &dyn Storage,
        path: &Path,
        threads: usize,
        control: &Control,
    ) -> Result<()> {
        let state = self.settled(threads, control)?;
        let tables = stored::Tables::new(&state);
        let sections = tables.sections(&state);
        file::save(storage, path, &sections, &|| control.check())
    }

    /// The bytes that [`Index::save`] would write.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the file behind the index is damaged, [`Error::Cancelled`].
    pub fn to_bytes(&self, threads: usize, control: &Control) -> Result<Vec<u8>> {
        let state = self.settled(threads, control)?;
        let tables = stored::Tables::new(&state);
        file::to_bytes(&tables.sections(&state), &|| control.check())
    }

    /// Reads every byte again and checks every invariant; returns all that is wrong.
    ///
    /// # Errors
    /// [`Error::Cancelled`].
    pub fn verify(&self, control: &Control) -> Result<Vec<Damage>> {
        let state = self.snapshot();
        let mut findings = match &state.reader {
            Some(reader) => reader.verify(&|| control.check())?,
            None => Vec::new(),
        };
        if findings.is_empty()
            && let Err(damage) = state.check()
        {
            findings.push(*damage);
        }
        Ok(findings)
    }

    /// Sizes and settings.
    pub fn stats(&self) -> Stats {
        let state = self.state.load();
        let mut bytes = Bytes {
            vectors: state.vectors.bytes(),
            codes: state.codes.as_ref().map_or(0, CodeTable::bytes),
            graph: state.graph.as_ref().map_or(0, Graph::bytes),
            keys: state.keys.bytes() + state.lifts.as_ref().map_or(0, Rows::bytes),
            on_disk: 0,
        };
        bytes.on_disk = if self.read_only {
            bytes.total()
        } else {
            bytes.vectors * state.spooled / state.vectors.rows().max(1)
        };
        Stats {
            params: state.params,
            live: state.live(),
            deleted: state.dead,
            bytes,
            scores_from: state.scores_from(),
            scans_codes: state.codes.is_some(),
            nodes: state.graph.as_ref().map(Graph::sizes),
            calibration: state.calibration.clone(),
            read_only: self.read_only,
        }
    }
}
