"""The DICOM file in a multipart body comes out as it went in, as the standard library's parser has it; a body that was
cut short is never taken for a whole one."""

from __future__ import annotations

import email
import email.policy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from dicom_files import build
from dicomweb_stand_in import BOUNDARY, multipart
from hypothesis import given
from hypothesis import strategies as st
from osler.errors import SourceError
from osler.sources.multipart import dicom_file, media_type, parts
from osler.sources.web import CutShort

FILE = build(np.zeros((4, 4), np.uint8))
RELATED = f'multipart/related; type="application/dicom"; boundary={BOUNDARY}'


def body(data: bytes, type_: str = RELATED, framed: bool = True) -> Any:
    return SimpleNamespace(all=lambda: data, type=type_, framed=framed, status=200)


def contents(data: bytes, boundary: bytes) -> list[bytes]:
    return [data[part.start : part.stop] for part in parts(data, boundary)]


BOUNDARIES = st.text("abcXYZ019'()+_,-./:=?", min_size=1, max_size=70)


@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), BOUNDARIES)
def test_what_went_in_comes_out(files: list[bytes], boundary: str) -> None:
    data = multipart(files, boundary=boundary)
    if not any(b"--" + boundary.encode() in file for file in files):
        assert contents(data, boundary.encode()) == files


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=3))
def test_the_standard_library_says_the_same(files: list[bytes]) -> None:
    data = multipart(files)
    message = email.message_from_bytes(
        f"Content-Type: {RELATED}\r\n\r\n".encode()
        + data.replace(b"application/dicom\r\n", b"application/dicom\r\nContent-Transfer-Encoding: 8bit\r\n"),
        policy=email.policy.compat32,
    )
    theirs = [part.get_payload(decode=True) for part in message.get_payload()]
    # It takes lone CR and LF for line ends; ours are bytes.
    if not any(set(file) & set(b"\r\n") for file in files):
        assert contents(data, BOUNDARY.encode()) == theirs == files


@given(st.binary(max_size=300), st.binary(min_size=1, max_size=20).filter(lambda text: b"\n" not in text))
def test_any_bytes_end_in_parts_or_a_refusal(data: bytes, boundary: bytes) -> None:
    try:
        for start, stop in ((part.start, part.stop) for part in parts(data, boundary)):
            assert 0 <= start <= stop <= len(data)
    except (SourceError, CutShort):
        pass


def test_a_body_that_ends_anywhere_is_cut_short() -> None:
    data = multipart([FILE])
    end = data.rindex(f"\r\n--{BOUNDARY}".encode()) + len(BOUNDARY) + 4
    for length in range(1, end):
        with pytest.raises((CutShort, SourceError)):
            dicom_file(body(data[:length]))
    assert dicom_file(body(data[: end + 2])) == FILE


def test_a_line_that_only_begins_like_a_boundary_is_content() -> None:
    inside = f"--{BOUNDARY}x\r\n--{BOUNDARY[:-1]}\r\n --{BOUNDARY}\r\nx--{BOUNDARY}--\r\n".encode()
    assert contents(multipart([inside]), BOUNDARY.encode()) == [inside]
    many = (f"--{BOUNDARY}-".encode() * 50_000) + b"x"
    assert contents(multipart([many]), BOUNDARY.encode()) == [many]


@pytest.mark.parametrize(
    "data",
    [
        f"preamble\r\n--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + FILE
        + f"\r\n--{BOUNDARY}--".encode(),
        f"--{BOUNDARY} \t\r\ncontent-TYPE: Application/DICOM; transfer-syntax=1.2\r\n\r\n".encode()
        + FILE
        + f"\r\n--{BOUNDARY}--\r\nepilogue".encode(),
        f"--{BOUNDARY}\nContent-Type: application/dicom\n\n".encode() + FILE + f"\n--{BOUNDARY}--\n".encode(),
        f"--{BOUNDARY}\r\n\r\n".encode() + FILE + f"\r\n--{BOUNDARY}--".encode(),
        f"\r\n--{BOUNDARY}\r\nX: y\r\nContent-Length: 7\r\n\r\n".encode() + FILE + f"\r\n--{BOUNDARY}--\r\n".encode(),
        f"--{BOUNDARY}\r\nContent-Type: application/json\r\n\r\n{{}}".encode()
        + f"\r\n--{BOUNDARY}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        + FILE
        + f"\r\n--{BOUNDARY}--".encode(),
    ],
)
def test_forms_that_servers_give(data: bytes) -> None:
    assert dicom_file(body(data)) == FILE


@pytest.mark.parametrize(
    "type_",
    [
        RELATED,
        f'Multipart/Related; boundary="{BOUNDARY}"; type="application/dicom"',
        f"multipart/related;boundary={BOUNDARY}",
        "multipart/related",
        "application/octet-stream",
        "text/plain",
        "",
        "multipart/related; boundary=",
        "multipart/related; boundary=é",
    ],
)
def test_the_boundary_is_found_without_its_header(type_: str) -> None:
    assert dicom_file(body(multipart([FILE]), type_)) == FILE


@pytest.mark.parametrize("type_", ["application/dicom", "application/octet-stream", "text/html", RELATED, ""])
def test_a_file_alone_is_known_by_its_bytes(type_: str) -> None:
    assert dicom_file(body(FILE, type_)) == FILE


def test_a_file_without_a_preamble_is_known_by_its_type() -> None:
    bare = FILE[132:]
    assert dicom_file(body(bare, "application/dicom")) == bare
    with pytest.raises(SourceError, match="another kind of content than DICOM"):
        dicom_file(body(bare, "text/html"))


@pytest.mark.parametrize("count", [0, 2, 3])
def test_other_than_one_file_is_refused(count: int) -> None:
    data = multipart([FILE] * count) if count else multipart([b"{}"], "application/json")
    with pytest.raises(SourceError, match=f"answers with {count} DICOM files for one instance") as caught:
        dicom_file(body(data))
    assert caught.value.code == "not_served"


def test_nothing_is_empty_or_cut_short() -> None:
    with pytest.raises(SourceError) as caught:
        dicom_file(body(b""))
    assert caught.value.code == "empty"
    with pytest.raises(CutShort):
        dicom_file(body(b"", framed=False))


def test_heads_and_counts_are_bounded() -> None:
    with pytest.raises(SourceError, match="without an end of its head"):
        list(parts(b"--b\r\nX: " + b"y" * 100_000, b"b"))
    with pytest.raises(SourceError, match="too many parts"):
        list(parts(b"--b\r\n\r\n" * 5_000 + b"--b--", b"b"))
    assert media_type(" Text/HTML ;x") == "text/html"
