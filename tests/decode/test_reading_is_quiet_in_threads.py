"""Reading silences other libraries while it lasts, in every thread, and leaves warnings and loggers as they were."""

from __future__ import annotations

import logging
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from dicom_files import package_files, path_of
from osler.decode import read_pixels
from osler.decode.quiet import quiet
from osler.errors import SourceError

LOUD = [
    path_of(name) for name in ("badVR.dcm", "meta_missing_tsyntax.dcm", "SC_rgb_jpeg_dcmtk.dcm", "MR_truncated.dcm")
]


def test_filters_are_as_before(caplog: pytest.LogCaptureFixture) -> None:
    before = list(warnings.filters)

    def read(i: int) -> str:
        try:
            return str(len(read_pixels(LOUD[i % len(LOUD)]).frames))
        except SourceError as error:
            return error.code

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(read, range(80)))
    assert set(outcomes) == {"bad_header", "1", "truncated"}
    assert warnings.filters == before
    assert caplog.records == []
    with pytest.warns(UserWarning, match="heard"):
        warnings.warn("heard", UserWarning, stacklevel=1)
    logging.getLogger("pydicom").warning("heard again")
    assert [record.getMessage() for record in caplog.records] == ["heard again"]


def test_records_of_another_thread_pass(caplog: pytest.LogCaptureFixture) -> None:
    with quiet() as dropped, ThreadPoolExecutor(1) as pool:
        pool.submit(logging.getLogger("pydicom").warning, "from outside").result()
        logging.getLogger("pydicom").warning("from inside")
    assert dropped == ["from inside"]
    assert [record.getMessage() for record in caplog.records] == ["from outside"]


def test_threads_read_what_one_thread_reads() -> None:
    paths = [path for path in package_files() if path.name.startswith(("MR_small", "SC_rgb_rle", "emri"))]

    def read(path: object) -> object:
        try:
            return [frame.tobytes() for frame in read_pixels(path).frames]  # type: ignore[arg-type]
        except SourceError as error:
            return error.code

    alone = [read(path) for path in paths]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(read, paths * 3))
    assert together == alone * 3
    frames = read_pixels(path_of("emri_small_RLE.dcm")).frames
    with ThreadPoolExecutor(4) as pool:
        sums = list(pool.map(lambda i: int(np.sum(frames[i])), range(10)))
    assert sums == [int(np.sum(frame)) for frame in frames]
