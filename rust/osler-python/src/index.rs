//! `_native.Index`: arguments in, one call of the engine, arrays out.

use std::path::PathBuf;
use std::sync::Arc;

use numpy::{PyArray1, PyArray2, PyArrayMethods};
use osler_core::form::Wanted;
use osler_core::group::ItemsOnce;
use osler_core::index::Index as Engine;
use osler_core::items::ItemAsk;
use osler_core::metric::Metric;
use osler_core::parts::Score;
use osler_core::pool::Control;
use osler_core::query::Ask;
use osler_core::state::Params;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};

use crate::arrays::Whole;
use crate::results::{Found, FoundItems, Pairs};
use crate::sets::{Bitmap, Groups};
use crate::{arrays, enter, errors, options, stats};

/// An index of vectors under integer keys, searched exactly or through an HNSW graph.
///
/// Parameters
/// ----------
/// dim : int
///     Numbers of a vector, 1 to 65,536.
/// metric : {"cosine", "dot", "l2"}
///     What a score means; a higher score is always nearer. ``cosine``: the cosine in [-1, 1], vectors are stored at
///     unit length. ``dot``: the inner product. ``l2``: minus the squared Euclidean distance.
/// codes : str
///     What vectors are searched by: ``"auto"``, ``"f32"``, ``"f16"``, ``"sq8"``, ``"sq5"``, ``"pq"``, ``"rabitq"``, with
///     parameters as ``"pq:96x4"`` or ``"rabitq:4"``; see `build`.
/// keep_vectors : {"ram", "disk", "none"}
///     Where full vectors are kept; see `build`.
/// memory : int, optional
///     Bytes that the index may take; None: no limit. Chooses in `build`, where the number of vectors is known.
/// seed : int
///     Seed of every random choice. The same input and seed give the same bytes in a saved file, at any number of
///     threads and any SIMD level.
///
/// Notes
/// -----
/// Below 2,000 vectors search is exact. From there on a graph is kept (HNSW, Malkov and Yashunin, arXiv 1603.09320), or
/// small codes that are scanned, and the width of its beam, or how many finds of a scan are scored by their vectors, is
/// measured for a wanted recall on vectors of the index that are held out while it is built.
/// Any number of threads may search while one adds or deletes: a call sees one state of the index.
///
/// Examples
/// --------
/// >>> import numpy as np, osler
/// >>> index = osler.Index(dim=3, metric="cosine")
/// >>> index.add(np.array([[1, 0, 0], [0, 1, 0], [1, 1, 0]], dtype=np.float32))
/// array([0, 1, 2], dtype=uint64)
/// >>> found = index.search(np.array([1.0, 0.2, 0.0], dtype=np.float32), k=2)
/// >>> found.keys
/// array([0, 2], dtype=uint64)
/// >>> found.scores.round(2)
/// array([0.98, 0.83], dtype=float32)
#[pyclass(frozen, subclass, module = "osler", name = "Index")]
pub struct Index {
    pub engine: Arc<Engine>,
}

#[pymethods]
impl Index {
    #[new]
    #[pyo3(signature = (dim, *, metric="cosine", codes="auto", keep_vectors=None, memory=None, seed=Whole(0)),
           text_signature = "(dim, *, metric='cosine', codes='auto', keep_vectors='ram', memory=None, seed=0)")]
    fn new(
        py: Python<'_>,
        dim: Whole,
        metric: &str,
        codes: &str,
        keep_vectors: Option<&str>,
        memory: Option<Whole>,
        seed: Whole,
    ) -> PyResult<Self> {
        let dim = arrays::positive("dim", &dim)?;
        let memory = memory.map(|m| arrays::unsigned("memory", &m)).transpose()?;
        let seed = arrays::unsigned("seed", &seed)?;
        let engine = enter::quick(py, || {
            let metric = Metric::parse(metric)?;
            let wanted = Wanted {
                codes,
                keep: keep_vectors,
                memory,
            };
            let (codes, keep) = wanted.choose(metric, dim, 0)?;
            Engine::new(Params {
                dim,
                metric,
                codes,
                keep,
                seed,
            })
        })?;
        Ok(Index {
            engine: Arc::new(engine),
        })
    }

    /// Make an index of all `vectors` at once.
    ///
    /// Parameters
    /// ----------
    /// vectors : array of shape (n, dim), float32 or float16
    /// keys : array of uint64 of shape (n,), optional
    ///     By default 0, 1, 2, ...
    /// metric, seed
    ///     As for `Index`.
    /// codes : str
    ///     What vectors are searched by. ``"f32"`` and ``"f16"``: a graph whose nodes have 8-bit rows, over full vectors of
    ///     that width; the fastest. ``"sq8"`` and ``"sq5"``: a graph of small blocks, a third and a fifth of that, whose rows
    ///     have 8 or 5 bits a number, over full vectors of 32 bits. The others are small codes without a graph, all of
    ///     which a search scans: ``"rabitq:BITS"``, 1 to 8 bits a number (``"rabitq"`` is 1; Gao and Long, arXiv 2405.12497);
    ///     ``"pq:PARTSxBITS"``, product quantization with its rotation (Jégou et al., TPAMI 2011; Ge et al., CVPR 2013) of 4
    ///     or 8 bits a part (``"pq"`` is a 16th of the bytes of f32). ``"auto"``: f32, or with `memory` the first of these
    ///     that fits: f32, f16, f16 with vectors on disk, sq8, sq5, then with vectors on disk sq8, sq5, rabitq:4, pq,
    ///     rabitq:1 and pq of half as many parts.
    /// keep_vectors : {"ram", "disk", "none"}
    ///     Where full vectors are kept, from which the best finds are ordered and scores come. ``"disk"``: in an unlinked
    ///     temporary file (in ``$TMPDIR``, which should be a disk) and in the saved file, read when they are scored; at most
    ///     64 KiB of new ones, or an 8th of all, wait in memory. ``"none"``: nowhere, from 2,000 vectors on. Then scores and
    ///     `get` are approximate, from the graph's rows of 8 or 5 bits or from the small codes; a recall above what they can
    ///     tell is not reached, and `stats` says what was measured. By default ``"ram"``, or what fits `memory`.
    /// memory : int, optional
    ///     Bytes that the index may have resident, without what the build takes for a while. None: no limit.
    /// threads : int, optional
    ///     None: the CPU set and the cgroup's quota.
    /// progress : bool or callable
    ///     A bar on stderr, or a function that gets (done, total).
    ///
    /// Returns
    /// -------
    /// Index
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For shapes, values that are not finite, zero vectors under cosine, keys given twice, and where nothing fits
    ///     `memory`.
    ///
    /// Notes
    /// -----
    /// Parameters for experts, all of them: `codes` and `keep_vectors` here, and in `search` ``ef``, the width of the beam
    /// or, under small codes, how many finds are scored by their vectors. Quantizers are trained on up to 20,000 vectors,
    /// and again when the index has four times as many as they were trained on.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(3, dtype=np.float32), keys=[10, 20, 30])
    /// >>> len(index), 20 in index
    /// (3, True)
    ///
    /// Within a budget:
    ///
    /// >>> vectors = np.random.default_rng(0).standard_normal((4000, 64), dtype=np.float32)
    /// >>> index = osler.Index.build(vectors, memory=500_000)
    /// >>> index.codes, index.stats()["keep_vectors"], index.stats()["bytes_resident"] <= 500_000
    /// ('rabitq:4', 'disk', True)
    #[classmethod]
    #[pyo3(signature = (vectors, keys=None, *, metric="cosine", codes="auto", keep_vectors=None, memory=None,
                        threads=None, seed=Whole(0), progress=None),
           text_signature = "(vectors, keys=None, *, metric='cosine', codes='auto', keep_vectors='ram', memory=None, threads=None, seed=0, progress=False)")]
    #[allow(clippy::too_many_arguments, reason = "the public signature")]
    fn build<'py>(
        cls: &Bound<'py, PyType>,
        vectors: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        metric: &str,
        codes: &str,
        keep_vectors: Option<&str>,
        memory: Option<Whole>,
        threads: Option<Whole>,
        seed: Whole,
        progress: Option<&Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = cls.py();
        let matrix = arrays::matrix(vectors, "vectors", None, false)?;
        let memory = memory.map(|m| arrays::unsigned("memory", &m)).transpose()?;
        let seed = arrays::unsigned("seed", &seed)?;
        let (codes, keep) = enter::quick(py, || {
            let wanted = Wanted {
                codes,
                keep: keep_vectors,
                memory,
            };
            wanted.choose(Metric::parse(metric)?, matrix.dim, matrix.rows)
        })?;
        let keys = keys.map(|keys| arrays::keys(keys, "keys")).transpose()?;
        let threads = arrays::threads(threads)?;
        let options = PyDict::new(py);
        options.set_item("metric", metric)?;
        options.set_item("codes", codes.name())?;
        options.set_item("keep_vectors", keep.name())?;
        options.set_item("seed", seed)?;
        let index = cls.call((matrix.dim,), Some(&options))?;
        let engine = index.cast::<Index>()?.get().engine.clone();
        let none = py.None().into_bound(py);
        options::with_progress(py, progress.unwrap_or(&none), "index", |callback| {
            let size = engine.cost_of_add(matrix.rows);
            options::run(py, size, callback, |control| {
                engine.add(matrix.values, keys.as_deref(), threads, control)
            })
        })?;
        Ok(index)
    }

    /// Open a saved index.
    ///
    /// Parameters
    /// ----------
    /// path : str or os.PathLike
    /// mmap : bool
    ///     True: mapped, read-only, ready in milliseconds; a block is verified when it is first touched. False: a
    ///     verified copy in memory that can be changed.
    ///
    /// Returns
    /// -------
    /// Index
    ///
    /// Raises
    /// ------
    /// FileNotFoundError
    /// CorruptIndexError
    ///     Naming file, section and offset.
    /// FormatVersionError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler, tempfile, os
    /// >>> path = os.path.join(tempfile.mkdtemp(), "cases.index")
    /// >>> osler.Index.build(np.eye(3, dtype=np.float32)).save(path)
    /// >>> osler.Index.open(path)
    /// <osler.Index 3 x 3, cosine, f32, exact, read-only>
    #[staticmethod]
    #[pyo3(signature = (path, *, mmap=true))]
    fn open(py: Python<'_>, path: PathBuf, mmap: bool) -> PyResult<Self> {
        let open = |control: &Control| Engine::open(&path, mmap, control);
        let engine = if mmap {
            enter::quick(py, || open(&Control::default()))
        } else {
            enter::long(py, None, open)
        }?;
        Ok(Index {
            engine: Arc::new(engine),
        })
    }

    /// Add vectors.
    ///
    /// Parameters
    /// ----------
    /// vectors : array of shape (n, dim), float32 or float16, any layout
    /// keys : array of uint64 of shape (n,), optional
    ///     By default the next unused integers. A key that was deleted may be used again.
    /// threads : int, optional
    ///
    /// Returns
    /// -------
    /// array of uint64 of shape (n,)
    ///     The keys of the vectors.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For shapes, NaN or infinity, zero vectors under cosine, keys given twice or in use; nothing was added.
    /// ReadOnlyError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index(dim=2)
    /// >>> index.add(np.array([[3.0, 4.0]], dtype=np.float32), keys=[7])
    /// array([7], dtype=uint64)
    #[pyo3(signature = (vectors, keys=None, *, threads=None))]
    fn add<'py>(
        &self,
        py: Python<'py>,
        vectors: &Bound<'py, PyAny>,
        keys: Option<&Bound<'py, PyAny>>,
        threads: Option<Whole>,
    ) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let matrix = arrays::matrix(vectors, "vectors", Some(self.engine.params().dim), false)?;
        let keys = keys.map(|keys| arrays::keys(keys, "keys")).transpose()?;
        let threads = arrays::threads(threads)?;
        let size = self.engine.cost_of_add(matrix.rows);
        let keys = options::run(py, size, None, |control| {
            self.engine
                .add(matrix.values, keys.as_deref(), threads, control)
        })?;
        Ok(PyArray1::from_vec(py, keys))
    }

    /// Delete keys; they are not returned again unless they are added again.
    ///
    /// Parameters
    /// ----------
    /// keys : array of uint64 of shape (n,)
    ///     Keys that are not there are ignored.
    ///
    /// Returns
    /// -------
    /// int
    ///     How many were there.
    ///
    /// Raises
    /// ------
    /// ReadOnlyError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(3, dtype=np.float32))
    /// >>> index.delete([1, 99]), index.keys
    /// (1, array([0, 2], dtype=uint64))
    fn delete(&self, py: Python<'_>, keys: &Bound<'_, PyAny>) -> PyResult<usize> {
        let keys = arrays::keys(keys, "keys")?;
        let threads = arrays::threads(None)?;
        enter::long(py, None, |control| {
            self.engine.delete(&keys, threads, control)
        })
    }

    /// Find the nearest vectors.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (m, dim) or (dim,)
    /// k : int
    ///     Hits wanted; fewer are a normal answer.
    /// recall : float
    ///     Share of the exact answer wanted, in (0, 1]; 1 means exact.
    /// ef : int, optional
    ///     Width of the beam instead of the measured one, for experts.
    /// filter : array of bool aligned with `keys`, array of allowed keys, or Bitmap, optional
    ///     Unknown keys are ignored.
    /// groups : array of int64 aligned with `keys`, or Groups, optional
    ///     At most `group_size` hits come from a group.
    /// group_size : int or None
    ///     None: no limit.
    /// exclude_groups : array of int64 of shape (m,), optional
    ///     The group in `exclude_by`, or in `groups`, whose members each query does not get; -1: none.
    /// exclude_by : array of int64 aligned with `keys`, or Groups, optional
    /// exact : bool
    ///     Score every vector.
    /// threads : int, optional
    ///     A single query runs on the caller's thread.
    ///
    /// Returns
    /// -------
    /// Found
    ///     ``keys`` uint64 (m, k), ``scores`` float32 (m, k) descending, ``counts`` int64 (m,): how many are real; the
    ///     rest are key 2**64-1 and score -inf. A query of shape (dim,) gives (k,), (k,) and an int.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     For shapes, values that are not finite, k < 1, and a mask or groups of another length.
    /// CorruptIndexError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
    /// >>> index.search(np.eye(4, dtype=np.float32)[:2], k=1).keys
    /// array([[0],
    ///        [1]], dtype=uint64)
    /// >>> index.search(np.ones(4, dtype=np.float32), k=3, filter=[2, 3]).counts
    /// 2
    #[pyo3(signature = (queries, k=Whole(10), *, recall=0.95, ef=None, filter=None, groups=None, group_size=Some(Whole(1)),
                        exclude_groups=None, exclude_by=None, exact=false, threads=None),
           text_signature = "($self, queries, k=10, *, recall=0.95, ef=None, filter=None, groups=None, group_size=1, exclude_groups=None, exclude_by=None, exact=False, threads=None)")]
    #[allow(clippy::too_many_arguments, reason = "the public signature")]
    fn search<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        k: Whole,
        recall: f32,
        ef: Option<Whole>,
        filter: Option<&Bound<'py, PyAny>>,
        groups: Option<&Bound<'py, PyAny>>,
        group_size: Option<Whole>,
        exclude_groups: Option<&Bound<'py, PyAny>>,
        exclude_by: Option<&Bound<'py, PyAny>>,
        exact: bool,
        threads: Option<Whole>,
    ) -> PyResult<Found> {
        let state = self.engine.snapshot();
        let mut matrix = arrays::matrix(queries, "queries", Some(state.params.dim), true)?;
        let k = arrays::positive("k", &k)?;
        let ef = ef.map(|ef| arrays::positive("ef", &ef)).transpose()?;
        let group_size = group_size
            .map(|size| arrays::positive("group_size", &size))
            .transpose()?;
        let allowed = options::filter(&self.engine, py, &state, filter)?;
        let groups = groups
            .map(|groups| options::grouping(&self.engine, py, &state, groups, "groups"))
            .transpose()?;
        let exclude_by = exclude_by
            .map(|groups| options::grouping(&self.engine, py, &state, groups, "exclude_by"))
            .transpose()?;
        let excluded = exclude_groups
            .map(|ids| arrays::ids(ids, "exclude_groups"))
            .transpose()?;
        let exclude = options::excluded(
            excluded.as_deref(),
            exclude_by.as_deref(),
            groups.as_deref(),
            matrix.rows,
        )?;
        let limit = match (&groups, group_size) {
            (Some(groups), Some(size)) => Some((&groups[..], size)),
            _ => None,
        };
        let ask = Ask {
            k,
            recall,
            ef,
            exact,
            allowed: allowed.as_deref(),
            limit,
            exclude,
        };
        let size = self
            .engine
            .cost_of_search(matrix.rows, exact || recall >= 1.0);
        let threads = match (threads, matrix.rows) {
            (None, 1) => 1,
            _ => arrays::threads(threads)?,
        };
        let answers = options::run(py, size, None, |control| {
            self.engine.prepare(&mut matrix.values)?;
            self.engine
                .search(&state, &matrix.values, ask, threads, control)
        })?;
        Found::new(py, answers, matrix.rows, k, matrix.single)
    }

    /// Find the nearest items, whose parts are vectors, for one vector or for a set of them.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (dim,) or (q, dim)
    ///     One query of one or of q vectors; with `offsets`, the vectors of several queries.
    /// items : array of int64 aligned with `keys`, or Groups
    ///     The item of which each vector is a part. Groups are prepared once for many searches.
    /// k : int
    ///     Items wanted; fewer are a normal answer.
    /// score : {"max", "mean", "sum", "count", "maxsim", "median_min"}
    ///     How an item is scored from its parts. ``max``: the best part. ``mean``, ``sum``: over its parts. ``count``: how
    ///     many of its parts are among the 20 nearest vectors (as in 3D-MIR). Under these a query of several vectors
    ///     takes the best vector's value, and ``count`` adds theirs up. ``maxsim``: the sum over the query's vectors of the
    ///     best part for each (ColBERT). ``median_min``: the median over them (as in Yottixel; the mean of the middle two
    ///     if there is an even number).
    /// offsets : array of int64 of shape (m + 1,), optional
    ///     Query i has the vectors ``queries[offsets[i]:offsets[i + 1]]``, at least one.
    /// recall : float
    ///     Share of the exact answer wanted, in (0, 1]; 1 means exact.
    /// filter : as for `search`, optional
    ///     The vectors that count as parts. An item without one is not found.
    /// groups : array of int64 aligned with `keys`, or Groups, optional
    ///     At most `group_size` items come from a group; all parts of an item must be of one group.
    /// group_size : int or None
    ///     None: no limit.
    /// exclude_groups : array of int64 of shape (m,), optional
    ///     The group in `exclude_by`, or in `groups`, or in `items`, whose members do not count for each query; -1: none.
    /// exclude_by : array of int64 aligned with `keys`, or Groups, optional
    /// exact : bool
    ///     Score every part.
    /// threads : int, optional
    ///     A single query runs on the caller's thread.
    ///
    /// Returns
    /// -------
    /// FoundItems
    ///     ``items`` int64 (m, k), ``scores`` float32 (m, k) descending, ``parts`` uint64 (m, k): the key of the part that
    ///     any vector of the query matches best, ``counts`` int64 (m,): how many are real; the rest are item -1, score -inf
    ///     and part 2**64-1. Without `offsets`, (k,), (k,), (k,) and an int. Of equal scores the item with the better best
    ///     part comes first, then the one whose best part was added first.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///     As for `search`, and for offsets that do not split `queries`.
    ///
    /// Notes
    /// -----
    /// Below 2,000 vectors, with ``exact`` and with ``recall=1`` the answer is that of brute force; for ``mean`` and
    /// ``sum`` it always is, and where `items` are prepared groups of four vectors or more on average the items' mean
    /// vectors, kept with them, tell which few have to be scored. Else ``max`` is the grouped search, and ``count`` takes
    /// the 20 nearest vectors from the graph. For ``maxsim`` and ``median_min`` the graph gives, for each vector of the
    /// query, the items with the nearest parts, which are scored exactly. If no other item can reach the k-th of them (the
    /// bound of the threshold algorithm, Fagin et al. 2001) the answer is as good as those lists. If that cannot be said,
    /// the lists are doubled until that changes no more of the best max(k, 20) items than half of what `recall` allows to miss,
    /// which is an estimate and no proof; and where that would cost more than scoring every part, every part is scored.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.array([[1, 0], [0, 1], [1, 1], [1, 2]], dtype=np.float32), metric="dot")
    /// >>> volumes = index.groups([70, 70, 80, 80])
    /// >>> slices = np.array([[1, 0], [0, 1]], dtype=np.float32)
    /// >>> found = index.search_items(slices, volumes, k=2, score="maxsim")
    /// >>> found.items, found.scores, found.parts
    /// (array([80, 70]), array([3., 2.], dtype=float32), array([3, 0], dtype=uint64))
    /// >>> index.search_items(slices, volumes, k=1, score="mean", offsets=[0, 1, 2]).scores
    /// array([[1. ],
    ///        [1.5]], dtype=float32)
    #[pyo3(signature = (queries, items, k=Whole(10), *, score="max", offsets=None, recall=0.95, filter=None, groups=None,
                        group_size=Some(Whole(1)), exclude_groups=None, exclude_by=None, exact=false, threads=None),
           text_signature = "($self, queries, items, k=10, *, score='max', offsets=None, recall=0.95, filter=None, groups=None, group_size=1, exclude_groups=None, exclude_by=None, exact=False, threads=None)")]
    #[allow(clippy::too_many_arguments, reason = "the public signature")]
    fn search_items<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        items: &Bound<'py, PyAny>,
        k: Whole,
        score: &str,
        offsets: Option<&Bound<'py, PyAny>>,
        recall: f32,
        filter: Option<&Bound<'py, PyAny>>,
        groups: Option<&Bound<'py, PyAny>>,
        group_size: Option<Whole>,
        exclude_groups: Option<&Bound<'py, PyAny>>,
        exclude_by: Option<&Bound<'py, PyAny>>,
        exact: bool,
        threads: Option<Whole>,
    ) -> PyResult<FoundItems> {
        let state = self.engine.snapshot();
        let mut matrix = arrays::matrix(queries, "queries", Some(state.params.dim), true)?;
        let offsets = offsets
            .map(|offsets| arrays::offsets(offsets, "offsets"))
            .transpose()?;
        let single = offsets.is_none();
        let offsets = offsets.unwrap_or_else(|| vec![0, matrix.rows]);
        let k = arrays::positive("k", &k)?;
        let score = enter::quick(py, || Score::parse(score))?;
        let group_size = group_size
            .map(|size| arrays::positive("group_size", &size))
            .transpose()?;
        let allowed = options::filter(&self.engine, py, &state, filter)?;
        let items = options::items(&self.engine, py, &state, items)?;
        let grouping = |value: Option<&Bound<'py, PyAny>>, name| {
            value
                .map(|groups| options::grouping(&self.engine, py, &state, groups, name))
                .transpose()
        };
        let groups = grouping(groups, "groups")?;
        let exclude_by = grouping(exclude_by, "exclude_by")?;
        let excluded = exclude_groups
            .map(|ids| arrays::ids(ids, "exclude_groups"))
            .transpose()?;
        let exclude = options::excluded(
            excluded.as_deref(),
            exclude_by.as_deref(),
            groups.as_deref().or(Some(items.of_row())),
            offsets.len().saturating_sub(1),
        )?;
        let ask = ItemAsk {
            k,
            score,
            recall,
            exact,
            allowed: allowed.as_deref(),
            items: &items,
            limit: groups.as_deref().zip(group_size),
            exclude,
        };
        let whole = exact || recall >= 1.0 || !matches!(score, Score::Max | Score::Count);
        let size = self.engine.cost_of_search(matrix.rows, whole);
        let threads = match (threads, offsets.len()) {
            (None, 2) => 1,
            _ => arrays::threads(threads)?,
        };
        let answers = options::run(py, size, None, |control| {
            self.engine.prepare(&mut matrix.values)?;
            self.engine
                .search_items(&state, &matrix.values, &offsets, ask, threads, control)
        })?;
        FoundItems::new(py, answers, k, single)
    }

    /// Find every vector at or above a score.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (m, dim) or (dim,)
    /// threshold : float
    ///     The lowest score to return.
    /// filter : as for `search`, optional
    /// threads : int, optional
    ///
    /// Returns
    /// -------
    /// Pairs
    ///     ``keys`` uint64 and ``scores`` float32, query after query, best first; query i has the entries
    ///     ``offsets[i]:offsets[i + 1]``.
    ///
    /// Raises
    /// ------
    /// ValueError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(3, dtype=np.float32))
    /// >>> pairs = index.search_range(np.array([[1, 1, 0]], dtype=np.float32), 0.5)
    /// >>> pairs.keys, pairs.offsets
    /// (array([0, 1], dtype=uint64), array([0, 2]))
    #[pyo3(signature = (queries, threshold, *, filter=None, threads=None))]
    fn search_range<'py>(
        &self,
        py: Python<'py>,
        queries: &Bound<'py, PyAny>,
        threshold: f32,
        filter: Option<&Bound<'py, PyAny>>,
        threads: Option<Whole>,
    ) -> PyResult<Pairs> {
        let state = self.engine.snapshot();
        let mut matrix = arrays::matrix(queries, "queries", Some(state.params.dim), true)?;
        let allowed = options::filter(&self.engine, py, &state, filter)?;
        let threads = arrays::threads(threads)?;
        let found = enter::long(py, None, |control| {
            self.engine.prepare(&mut matrix.values)?;
            self.engine.search_range(
                &state,
                &matrix.values,
                threshold,
                allowed.as_deref(),
                threads,
                control,
            )
        })?;
        Ok(Pairs::new(py, found))
    }

    /// The live keys, uint64 of shape (len,), in the order in which they were added.
    ///
    /// Masks and groups align with them.
    #[getter]
    fn keys<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyArray1<u64>>> {
        let keys = enter::quick(py, || self.engine.snapshot().live_keys())?;
        Ok(PyArray1::from_vec(py, keys))
    }

    /// Prepare a filter once for many searches.
    ///
    /// Parameters
    /// ----------
    /// mask_or_keys : array of bool aligned with `keys`, or array of keys
    ///
    /// Returns
    /// -------
    /// Bitmap
    ///     Supports ``& | ~ -`` and ``len``; bound to this index; rows added later are outside it.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
    /// >>> some = index.bitmap([0, 1]) | index.bitmap(np.array([False, False, True, False]))
    /// >>> len(some), len(~some)
    /// (3, 1)
    fn bitmap(&self, py: Python<'_>, mask_or_keys: &Bound<'_, PyAny>) -> PyResult<Bitmap> {
        let state = self.engine.snapshot();
        let set = options::rows(&self.engine, py, &state, mask_or_keys, "mask_or_keys")?;
        Ok(Bitmap::new(
            self.engine.clone(),
            self.engine.bind(&state, set),
        ))
    }

    /// Prepare groups once for many searches.
    ///
    /// Parameters
    /// ----------
    /// ids : array of int64 aligned with `keys`
    ///
    /// Returns
    /// -------
    /// Groups
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.eye(4, dtype=np.float32))
    /// >>> patients = index.groups([1, 1, 2, 2])
    /// >>> index.search(np.ones(4, dtype=np.float32), k=4, groups=patients).counts
    /// 2
    fn groups(&self, py: Python<'_>, ids: &Bound<'_, PyAny>) -> PyResult<Groups> {
        let state = self.engine.snapshot();
        let ids = arrays::ids(ids, "ids")?;
        let groups: Arc<[i64]> = enter::quick(py, || Ok(self.engine.groups(&state, &ids)?.into()))?;
        let count = ids.iter().collect::<std::collections::HashSet<_>>().len();
        Ok(Groups {
            groups: self.engine.bind(&state, groups),
            count,
            items: ItemsOnce::default(),
        })
    }

    /// The vectors of `keys`, float32 of shape (n, dim), in the stored precision (unit length under cosine).
    ///
    /// Where full vectors are not kept, these are the approximations that their codes stand for.
    ///
    /// Raises
    /// ------
    /// KeyError
    ///     Naming the first key that is not there.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> index = osler.Index.build(np.array([[3.0, 4.0]], dtype=np.float32))
    /// >>> index.get([0])
    /// array([[0.6, 0.8]], dtype=float32)
    fn get<'py>(
        &self,
        py: Python<'py>,
        keys: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyArray2<f32>>> {
        let keys = arrays::keys(keys, "keys")?;
        let values = enter::quick(py, || self.engine.get(&keys))?;
        PyArray1::from_vec(py, values).reshape([keys.len(), self.engine.params().dim])
    }

    /// Write the index to one file, atomically: the file is complete, or what was at `path` stays.
    ///
    /// Raises
    /// ------
    /// OSError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler, tempfile, os
    /// >>> path = os.path.join(tempfile.mkdtemp(), "cases.index")
    /// >>> osler.Index.build(np.eye(3, dtype=np.float32)).save(path)
    /// >>> len(osler.Index.open(path))
    /// 3
    fn save(&self, py: Python<'_>, path: PathBuf) -> PyResult<()> {
        let threads = arrays::threads(None)?;
        enter::long(py, None, |control| {
            self.engine.save(&path, threads, control)
        })
    }

    /// Read every byte of the index again.
    ///
    /// Raises
    /// ------
    /// CorruptIndexError
    ///     For the first damage, with all of it in ``.findings``.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> osler.Index.build(np.eye(3, dtype=np.float32)).verify()
    fn verify(&self, py: Python<'_>) -> PyResult<()> {
        let findings = enter::long(py, None, |control| self.engine.verify(control))?;
        if findings.is_empty() {
            Ok(())
        } else {
            Err(errors::corrupt(py, findings))
        }
    }

    /// Measure the recall curve, for queries of another kind too; it is stored in the file.
    ///
    /// Parameters
    /// ----------
    /// queries : array of shape (m, dim), optional
    ///     Some hundred queries like those to come, such as texts against images. None: up to 1,000 of the index's own
    ///     vectors, each walked around as if it were not there.
    /// threads : int, optional
    ///
    /// Raises
    /// ------
    /// ValueError
    /// ReadOnlyError
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> vectors = np.random.default_rng(0).standard_normal((2500, 8), dtype=np.float32)
    /// >>> index = osler.Index.build(vectors)
    /// >>> index.calibrate(vectors[:200] + 0.1)
    /// >>> index.stats()["calibration"]["queries"]
    /// 200
    #[pyo3(signature = (queries=None, *, threads=None))]
    fn calibrate(
        &self,
        py: Python<'_>,
        queries: Option<&Bound<'_, PyAny>>,
        threads: Option<Whole>,
    ) -> PyResult<()> {
        let dim = self.engine.params().dim;
        let mut matrix = queries
            .map(|q| arrays::matrix(q, "queries", Some(dim), false))
            .transpose()?;
        let threads = arrays::threads(threads)?;
        enter::long(py, None, |control| {
            if let Some(matrix) = &mut matrix {
                self.engine.prepare(&mut matrix.values)?;
            }
            self.engine
                .calibrate(matrix.as_ref().map(|m| &m.values[..]), threads, control)
        })
    }

    /// Numbers of a vector.
    #[getter]
    fn dim(&self) -> usize {
        self.engine.params().dim
    }

    /// What a score means: "cosine", "dot" or "l2".
    #[getter]
    fn metric(&self) -> &'static str {
        self.engine.params().metric.name()
    }

    /// What vectors are searched by, with all parameters: such as "f32", "f16", "sq8", "pq:192x4" or "rabitq:4".
    #[getter]
    fn codes(&self) -> String {
        self.engine.params().codes.name()
    }

    /// Sizes, settings and the measured recall curve, as a dict.
    ///
    /// Notes
    /// -----
    /// ``bytes_resident`` is what must stay in memory, ``bytes_on_disk`` what lies in a file (everything, in a mapped index);
    /// ``bytes_vectors``, ``bytes_codes``, ``bytes_graph`` and ``bytes_keys`` are the parts of both. ``scores_from`` is what
    /// scores come from: full vectors ("f32", "f16") or codes. ``recall`` is what was measured at k = 10 for the recall
    /// that `search` has by default, or the best that was measured below it. ``calibration`` holds the curve, with ``ef`` as
    /// in `search`. Where vectors are not kept, the first measurement is against the vectors, while they are still there;
    /// later ones are against the best that is kept.
    ///
    /// Examples
    /// --------
    /// >>> import numpy as np, osler
    /// >>> stats = osler.Index.build(np.eye(3, dtype=np.float32)).stats()
    /// >>> stats["count"], stats["search"], stats["scores_from"]
    /// (3, 'exact', 'f32')
    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        stats::as_dict(py, self.engine.stats())
    }

    fn __len__(&self) -> usize {
        self.engine.stats().live
    }

    fn __contains__(&self, py: Python<'_>, key: &Bound<'_, PyAny>) -> PyResult<bool> {
        let Ok(key) = key.extract::<u64>() else {
            return Ok(false);
        };
        enter::quick(py, || Ok(self.engine.snapshot().row(key)?.is_some()))
    }

    fn __iter__(&self) -> PyResult<()> {
        Err(PyTypeError::new_err(
            "an index is not iterable; use index.keys",
        ))
    }

    fn __repr__(&self) -> String {
        stats::in_words(&self.engine.stats())
    }

    fn __reduce__<'py>(
        slf: &Bound<'py, Self>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let py = slf.py();
        let engine = &slf.get().engine;
        let threads = arrays::threads(None)?;
        let bytes = enter::long(py, None, |control| engine.to_bytes(threads, control))?;
        Ok((
            py.get_type::<Index>().getattr("_from_bytes")?,
            (PyBytes::new(py, &bytes),),
        ))
    }

    /// The index of a saved file's bytes, in memory and changeable.
    #[staticmethod]
    fn _from_bytes(py: Python<'_>, bytes: &Bound<'_, PyBytes>) -> PyResult<Self> {
        let bytes = bytes.as_bytes();
        let engine = enter::long(py, None, |control| Engine::from_bytes(bytes, control))?;
        Ok(Index {
            engine: Arc::new(engine),
        })
    }
}
