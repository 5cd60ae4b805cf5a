//! `_native.Index`: arguments in, one call of the engine, arrays out. Here: making, keeping and describing it.

mod rows;
mod search;

use std::path::PathBuf;
use std::sync::Arc;

use osler_core::form::Wanted;
use osler_core::index::Index as Engine;
use osler_core::metric::Metric;
use osler_core::pool::Control;
use osler_core::state::Params;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyType};

use crate::arrays::Whole;
use crate::{arrays, enter, errors, options, stats, storage};

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
            let size = engine.cost_of_add(&matrix.values);
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
        let open = |control: &Control| Engine::open(&*storage::current(), &path, mmap, control);
        let engine = if mmap {
            enter::quick(py, || open(&Control::default()))
        } else {
            enter::long(py, None, open)
        }?;
        Ok(Index {
            engine: Arc::new(engine),
        })
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
            self.engine
                .save(&*storage::current(), &path, threads, control)
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

    fn __repr__(&self) -> String {
        stats::in_words(&self.engine.stats())
    }

    /// Copy the index: the two change on their own, and share what neither changes.
    fn __copy__(&self, py: Python<'_>) -> PyResult<Self> {
        let engine = enter::quick(py, || Ok(self.engine.duplicate()))?;
        Ok(Index {
            engine: Arc::new(engine),
        })
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
