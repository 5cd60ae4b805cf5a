"""Bombs, lies, cuts and noise end in a SourceError with a code, with little memory and without a word of the file."""

from __future__ import annotations

import io
import os
import stat
import struct
import tracemalloc
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from dicom_files import build, path_of
from hostile_files import CODES
from hypothesis import given
from hypothesis import strategies as st
from osler.config import LIMITS
from osler.decode import Pixels, read_pixels
from osler.decode.quiet import quiet
from osler.errors import SourceError
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.sequence import Sequence

RAMP = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64)


def _outcome(data: bytes) -> str | Pixels:
    try:
        return read_pixels(data)
    except SourceError as error:
        assert error.code in CODES
        return error.code


def _png_header(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _jpeg_header(width: int, height: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


def _tiff_header(width: int, height: int) -> bytes:
    fields = [(256, width), (257, height), (258, 8), (259, 1), (262, 1), (273, 8), (277, 1), (278, height), (279, 8)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in fields)
    return b"II*\0" + struct.pack("<I", 16) + bytes(8) + struct.pack("<H", len(fields)) + entries + bytes(4)


def _bmp_header(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHI", 154, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, *[0] * 6)


BOMBS = {
    "png": _png_header(100_000, 100_000),
    "jpeg": _jpeg_header(65_500, 65_500),
    "tiff": _tiff_header(100_000, 100_000),
    "bmp": _bmp_header(100_000, 100_000),
    "dicom": build(RAMP, Rows=65_535, Columns=65_535),
    "frames": build(RAMP, NumberOfFrames=LIMITS.frames + 1),
}


@pytest.mark.parametrize("name", BOMBS)
def test_a_declared_size_beyond_the_limit_is_refused_before_decoding(name: str) -> None:
    read_pixels(build(RAMP))
    tracemalloc.start()
    with pytest.raises(SourceError, match="limit") as caught:
        read_pixels(BOMBS[name])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert caught.value.code == "too_large"
    assert peak < 32 << 20


def test_a_deflate_bomb_is_refused() -> None:
    header = path_of("image_dfl.dcm").read_bytes()
    start = 144 + int.from_bytes(header[140:144], "little")
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = deflate.compress(bytes(300 << 20)) + deflate.flush()
    with pytest.raises(SourceError, match="grows beyond") as caught:
        read_pixels(header[:start] + bomb)
    assert caught.value.code == "too_large"


def test_a_code_stream_larger_than_the_header_states_is_not_decoded() -> None:
    deep, shallow = np.zeros((512, 512), np.uint16), np.zeros((512, 512), np.uint8)
    streams = {
        "90": imagecodecs.jpeg2k_encode(deep, codecformat="j2k", level=0),
        "57": imagecodecs.ljpeg_encode(deep),
        "80": imagecodecs.jpegls_encode(deep),
        "50": imagecodecs.jpeg_encode(shallow),
    }
    for syntax, frame in streams.items():
        data = build(RAMP, syntax=f"1.2.840.10008.1.2.4.{syntax}", frames=[bytes(frame)])
        with pytest.raises(SourceError, match="another size") as caught:
            read_pixels(data)
        assert caught.value.code == "bad_header"


def test_nesting_without_end_is_refused() -> None:
    inner = Dataset()
    for _ in range(LIMITS.sequence_depth - 2):
        outer = Dataset()
        outer.ReferencedImageSequence = Sequence([inner])
        inner = outer
    assert isinstance(_outcome(build(RAMP, ReferencedImageSequence=Sequence([inner]))), Pixels)
    header = build(RAMP, PixelData=None)
    opened = b"\x08\x00\x40\x11SQ\0\0\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    assert _outcome(header + opened * 20_000) in CODES


CUT = (
    "MR_small.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "image_dfl.dcm",
)
CHANGED = (*CUT[1:], "chrH31.dcm", "rtdose_rle_1frame.dcm", "JPEGLSNearLossless_08.dcm", "JPGExtended.dcm")
SEEDS = [path_of(name).read_bytes() for name in (*CHANGED, "UN_sequence.dcm")]


@pytest.mark.parametrize("name", CUT)
def test_a_dicom_file_cut_anywhere_ends_in_an_error_or_whole_pixels(name: str) -> None:
    data = path_of(name).read_bytes()
    whole = read_pixels(data).frames
    for end in np.linspace(0, len(data) - 1, 60).astype(int).tolist():
        outcome = _outcome(data[:end])
        if isinstance(outcome, Pixels):
            assert end > 0.9 * len(data)
            assert len(outcome.frames) == len(whole) and outcome.frames[0].shape == whole[0].shape


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "BMP"])
def test_a_picture_cut_anywhere_ends_in_an_error_or_whole_pixels(kind: str) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 50, 3)).astype(np.uint8)).save(stream, kind)
    data = stream.getvalue()
    codes = set()
    for end in range(0, len(data) - 40, max(len(data) // 97, 1)):
        outcome = _outcome(data[:end])
        assert isinstance(outcome, str), (kind, end, len(data))
        codes.add(outcome)
    assert "truncated" in codes


@given(st.sampled_from(SEEDS), st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12))
def test_changed_bytes_never_escape_as_another_error(data: bytes, changes: list[tuple[float, int]]) -> None:
    changed = bytearray(data)
    for where, byte in changes:
        changed[132 + int(where * (len(data) - 133))] = byte
    _outcome(bytes(changed))


@given(st.binary(max_size=600))
def test_noise_never_escapes_as_another_error(noise: bytes) -> None:
    for head in (
        b"",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff",
        b"II*\0",
        b"BM",
        bytes(128) + b"DICM",
        b"\x08\x00\x05\x00CS",
    ):
        _outcome(head + noise)


def test_fewer_frames_than_stated_are_counted() -> None:
    frame = bytes(imagecodecs.jpegls_encode(RAMP))
    data = build(np.stack([RAMP, RAMP, RAMP]), syntax="1.2.840.10008.1.2.4.80", frames=[frame, frame], NumberOfFrames=3)
    with pytest.raises(SourceError, match="2 of 3") as caught:
        read_pixels(data)
    assert caught.value.code == "truncated"


def test_pixels_and_transfer_syntax_must_fit() -> None:
    plain = build(RAMP)
    encapsulated = build(RAMP, syntax="1.2.840.10008.1.2.4.90", frames=[b"no code stream"])
    with pytest.raises(SourceError, match="no JPEG 2000 code stream"):
        read_pixels(encapsulated)
    with pytest.raises(SourceError, match="Explicit VR Little Endian"):
        read_pixels(encapsulated.replace(b"1.2.840.10008.1.2.4.90", b"1.2.840.10008.1.2.1\0\0\0", 1))
    for uid, words in ((b"1.2.840.10008.1.9.9", "not known"), (b"1.2.3.4.5.6.7.8.9.1", "not known")):
        with pytest.raises(SourceError, match=words) as caught:
            read_pixels(plain.replace(b"1.2.840.10008.1.2.1", uid, 1))
        assert caught.value.code == "unsupported_transfer_syntax"
        assert uid.decode() not in str(caught.value)
    with pytest.raises(SourceError, match="MPEG-4 AVC High Profile"):
        read_pixels(build(RAMP, syntax="1.2.840.10008.1.2.4.102", frames=[b"film"]))


def test_headers_that_contradict_themselves_are_refused() -> None:
    for elements in (
        {"BitsAllocated": 12},
        {"SamplesPerPixel": 2},
        {"Rows": 0},
        {"SamplesPerPixel": 3},
        {"PhotometricInterpretation": "RGB"},
        {"Rows": None},
        {"PhotometricInterpretation": "PALETTE COLOR"},
    ):
        with pytest.raises(SourceError) as caught:
            read_pixels(build(RAMP, **elements))
        assert caught.value.code == "bad_header", elements
    with pytest.raises(SourceError) as caught:
        read_pixels(build(RAMP, PhotometricInterpretation="HSV"))
    assert caught.value.code == "unsupported_photometric"


def test_what_is_no_readable_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    os.mkfifo(tmp_path / "fifo")
    codes = {}
    for name in ("missing", "empty", "fifo", "."):
        with pytest.raises(SourceError) as caught:
            read_pixels(tmp_path / name)
        codes[name] = caught.value.code
        assert str(tmp_path) not in str(caught.value)
    assert codes == {"missing": "missing", "empty": "empty", "fifo": "not_a_file", ".": "not_a_file"}
    with pytest.raises(SourceError, match="the picture is empty"):
        read_pixels(b"", name="the picture")


def test_a_file_that_may_not_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "closed"
    path.write_bytes(b"x")
    path.chmod(stat.S_IWUSR)
    if os.geteuid() == 0:

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(SourceError, match="permissions") as caught:
        read_pixels(path)
    assert caught.value.code == "no_permission"


def test_messages_hold_no_value_of_a_header() -> None:
    canary = "CANARY^QUINCE"
    for elements in ({"PhotometricInterpretation": "CANARYQUINCE"}, {"NumberOfFrames": None, "Rows": None}):
        with pytest.raises(SourceError) as caught:
            read_pixels(build(RAMP, PatientName=canary, PatientID=canary, **elements))
        error: BaseException | None = caught.value
        assert error is not None and "CANARY" not in str(error) and error.__cause__ is None
        assert error.__suppress_context__ or error.__context__ is None
    with quiet():
        broken = build(RAMP, NumberOfFrames="1").replace(
            b"\x28\x00\x08\x00IS\x02\x001 ", b"\x28\x00\x08\x00IS\x02\x00QX", 1
        )
    with pytest.raises(SourceError, match="Number of Frames") as caught:
        read_pixels(broken)
    assert "QX" not in str(caught.value)


def test_encapsulated_fragments_of_one_frame_are_joined() -> None:
    frame = bytes(imagecodecs.jpegls_encode(RAMP))
    data = build(RAMP, syntax="1.2.840.10008.1.2.4.80", frames=[frame])
    split = build(
        RAMP,
        syntax="1.2.840.10008.1.2.4.80",
        frames=[frame],
        PixelData=encapsulate([frame], fragments_per_frame=3, has_bot=False),
    )
    np.testing.assert_array_equal(read_pixels(data).frames[0], read_pixels(split).frames[0])
