"""What Osler reads of a real Orthanc through DICOMweb is what it reads of the same files in a folder: pixels, columns,
identifiers and keys; and a collection is built from it, searched, and completed after the server has died."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import osler
import pytest
from click.testing import CliRunner
from dicom_files import package_files
from dicomweb_stand_in import Asked, Reply, StandIn, slices
from orthanc import PASSWORD, USER, Orthanc
from osler.cli import app
from osler.collection import ingest
from osler.config import LIMITS
from osler.decode.dicom import DicomFile
from osler.errors import ServerError, SourceError
from osler.items import Item
from osler.sources import Source, dicomweb, open_source, web
from osler.sources.dicomweb import open_server
from osler.sources.workers import contained
from tiny_encoder import tiny_encoder

pytestmark = [pytest.mark.sockets, pytest.mark.timeout(600)]

# Larger ones say no more, and cost time.
MOST_BYTES = 1_000_000
KEEP = ("PatientID", "SeriesDescription")
AMBIGUOUS = "1.9.999.999.99.9.9999.9999.20030818153516"


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(web.USER, USER)
    monkeypatch.setenv(web.PASSWORD, PASSWORD)
    monkeypatch.delenv(web.TOKEN, raising=False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Orthanc, Path]]:
    """An Orthanc with the DICOM files of the packages, and a folder with those that it has taken.

    They are named as they are on the server, so that slices of which nothing says the order have one order.
    """
    server = Orthanc(tmp_path_factory.mktemp("orthanc"))
    try:
        folder = tmp_path_factory.mktemp("files")
        files = [file for file in package_files() if file.stat().st_size < MOST_BYTES]
        taken = server.fill(files)
        assert len(taken) > 120
        for number, file in enumerate(taken):
            header = DicomFile.header(file.read_bytes())
            name = str(header.value("SOPInstanceUID") if header else "") or f"none-{number}"
            shutil.copy(file, folder / (f"{name}-{number}" if (folder / name).exists() else name))
        yield server, folder
    finally:
        server.stop()


@pytest.fixture(scope="module")
def here(filled: tuple[Orthanc, Path]) -> dict[bytes, Item | tuple[str, str]]:
    """What each file of the folder gives, by its bytes."""
    return outcomes(open_source(filled[1], keep=KEEP))


def outcomes(source: Source) -> dict[bytes, Item | tuple[str, str]]:
    """Return what each file gives, by its bytes."""
    found: dict[bytes, Item | tuple[str, str]] = {}
    for entry in source.entries:
        try:
            content = source.content(entry)
        except SourceError as error:
            assert error.code == "missing" and AMBIGUOUS in entry.locator
            continue
        assert content is not None
        try:
            found[content] = source.read(entry, content)
        except SourceError as error:
            found[content] = (error.code, str(error))
    return found


def equal(one: Item, other: Item) -> None:
    assert one.key is None and other.key is None
    assert one.metadata == other.metadata
    assert one.identifiers == other.identifiers
    assert one.parts == other.parts
    assert one.content == other.content
    assert len(one.values) == len(other.values)
    for here, there in zip(one.values, other.values, strict=True):
        np.testing.assert_array_equal(here, there)
        assert here.dtype == there.dtype


def test_every_file_is_read_the_same(filled: tuple[Orthanc, Path], here: dict[bytes, Item | tuple[str, str]]) -> None:
    with contained() as decoder:
        there = open_source(filled[0].address, keep=KEEP, decoder=decoder)
        found = outcomes(there)
        there.close()
    # Two files of the packages have one SOPInstanceUID and other bytes: Orthanc stores both, and gives neither.
    lost = set(here) - set(found)
    assert set(found) <= set(here) and len(lost) <= 2
    items = 0
    for content, one in found.items():
        other = here[content]
        if isinstance(one, Item) and isinstance(other, Item):
            equal(one, other)
            items += 1
        else:
            assert one == other
    assert items > 50


def test_series_are_read_the_same(filled: tuple[Orthanc, Path]) -> None:
    server, folder = filled
    there = open_source(f"{server.address}?Modality=CT,MR", items="series")
    here = open_source(folder, items="series")

    def read(source: Source) -> dict[str, Item]:
        found = {}
        for entry in source.entries:
            if len(entry.members) > 1:
                try:
                    item = source.read(entry)
                except SourceError as error:
                    assert error.code != "not_served"
                    continue
                found[item.identifiers["series_id"]] = item
        return found

    ours, theirs = read(here), read(there)
    there.close()
    ours = {uid: item for uid, item in ours.items() if item.metadata["modality"] in ("CT", "MR")}
    assert ours.keys() == theirs.keys() and len(ours) >= 5
    assert max(len(item.values) for item in ours.values()) >= 4
    for uid, item in ours.items():
        equal(item, theirs[uid])


def test_whole_volumes_are_read_the_same(tmp_path: Path) -> None:
    files = slices(5, SliceThickness="5", PixelSpacing=["1", "1"])
    for number, content in enumerate(files):
        (tmp_path / f"{number}.dcm").write_bytes(content)
    here = open_source(tmp_path, items="series")
    with StandIn(files) as server:
        there = open_source(server.root, items="series")
        for source in (here, there):
            source.as_volumes()
        one, other = here.read(here.entries[0]), there.read(there.entries[0])
        there.close()
    np.testing.assert_array_equal(one.values[0].array, other.values[0].array)
    np.testing.assert_array_equal(one.values[0].affine, other.values[0].affine)
    assert one.metadata == other.metadata and one.content == other.content


def test_a_series_that_is_too_large_to_hold_is_fetched_again(monkeypatch: pytest.MonkeyPatch) -> None:
    from osler.sources import series

    with StandIn(slices(4)) as server:
        source = open_source(server.root, items="series")
        whole = source.read(source.entries[0])
        assert isinstance(whole.values, tuple) and server.count("file") == 4
        monkeypatch.setattr(series, "KEPT_BYTES", 100)
        item = source.read(source.entries[0])
        assert not isinstance(item.values, tuple)
        # In the order of their places, and not of their names.
        assert [int(frame[0, 0]) for frame in item.values] == [0, 10, 20, 30]
        assert [int(frame[0, 0]) for frame in whole.values] == [0, 10, 20, 30]
        source.close()


def test_filters_are_those_of_the_server(
    filled: tuple[Orthanc, Path], here: dict[bytes, Item | tuple[str, str]]
) -> None:
    server, _ = filled
    every = [item for item in here.values() if isinstance(item, Item)]
    for query, holds in (
        ("?Modality=MR", lambda item: item.metadata.get("modality") == "MR"),
        (
            "?Modality=CT&StudyDate=20040101-20041231",
            lambda item: item.metadata.get("modality") == "CT" and item.metadata.get("year") == 2004,
        ),
        ("?PatientID=1CT1", lambda item: item.identifiers.get("patient_id") == "1CT1"),
        ("?PatientID=nobody", lambda item: False),
    ):
        source = open_server(server.address + query)
        found = [source.read(entry) for entry in source.entries if _is_item(source, entry)]
        source.close()
        assert {item.content for item in found} == {item.content for item in every if holds(item)}, query
        assert found or query.endswith("nobody")
    one = open_server(server.address).entries[0]
    for depth in (2, 4, 6):
        source = open_server(f"{server.address}/{'/'.join(one.locator.split('/')[:depth])}")
        assert one.locator in [entry.locator for entry in source.entries]
        source.close()


def _is_item(source: Source, entry: Any) -> bool:
    try:
        source.read(entry)
    except SourceError:
        return False
    return True


def test_small_pages_of_a_real_server_give_the_same(
    filled: tuple[Orthanc, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from osler.sources import qido

    source = open_server(filled[0].address)
    monkeypatch.setattr(qido.Listing.__init__, "__defaults__", (2,))
    small = open_server(filled[0].address)
    assert [entry.locator for entry in small.entries] == [entry.locator for entry in source.entries]
    for one in (source, small):
        one.close()


def test_a_wrong_password_and_a_wrong_address_are_sentences(
    filled: tuple[Orthanc, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = filled
    with pytest.raises(ServerError, match=r"the server has no such address \(status 404\); check"):
        open_server(server.address.replace("dicom-web", "dicom"))
    monkeypatch.setenv(web.PASSWORD, "wrong")
    with pytest.raises(ServerError, match="does not accept the credentials"):
        open_server(server.address)
    monkeypatch.delenv(web.USER)
    monkeypatch.delenv(web.PASSWORD)
    with pytest.raises(ServerError, match="asks for credentials"):
        open_server(server.address)


@pytest.fixture
def encoder(tmp_path: Path, rng: np.random.Generator) -> Path:
    return tiny_encoder(tmp_path / "tiny", rng).save()


@pytest.mark.parametrize("items", ["file", "series"])
def test_collections_have_the_same_items(
    filled: tuple[Orthanc, Path],
    here: dict[bytes, Item | tuple[str, str]],
    tmp_path: Path,
    encoder: Path,
    items: Any,
) -> None:
    read = here
    server, folder = filled
    chosen = tmp_path / "chosen"
    chosen.mkdir()
    for file in sorted(folder.iterdir()):
        item = read[file.read_bytes()]
        if isinstance(item, Item) and item.metadata.get("modality") == "MR":
            shutil.copy(file, chosen / file.name)
    with osler.Collection.create(tmp_path / "here.osler", encoder=encoder) as ours:
        ours.add(chosen, items=items, progress=False)
        # Shared pseudonyms, as shards have them.
        secret = ours.path.with_name("here.secret")
        with osler.Collection.create(tmp_path / "there.osler", encoder=encoder, secret=secret) as there:
            report = there.add(f"{server.address}?Modality=MR", items=items, progress=False)
            assert sorted(there.keys()) == sorted(ours.keys()) and len(ours) == report.added > 8
            for key in ours:
                assert ours[key].metadata == there[key].metadata
            order = sorted(ours.keys())
            np.testing.assert_allclose(ours.vectors(order), there.vectors(order), atol=1e-6)
            # What is there is neither fetched nor decoded again.
            again = there.add(f"{server.address}?Modality=MR", items=items, progress=False)
            assert (again.added, again.duplicates) == (0, report.added)
            # The same files from the folder are the same items.
            folder_report = there.add(chosen, items=items, progress=False)
            assert folder_report.added == 0 and folder_report.duplicates == report.added


def run(*arguments: Any) -> Any:
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def test_the_command_line_builds_and_searches(filled: tuple[Orthanc, Path], tmp_path: Path) -> None:
    """With the default encoder, as a user would; the page of documentation is followed to the letter elsewhere."""
    server, _ = filled
    out = tmp_path / "cases.osler"
    address = f"{server.address}?Modality=MR"
    plan = run("index", "build", address, "-o", out, "--dry-run", "--json")
    assert plan.exit_code == 0 and not out.exists()
    planned = json.loads(plan.stdout)["plan"]
    built = run("index", "build", address, "-o", out, "--json")
    assert built.exit_code == 0, built.stderr
    document = json.loads(built.stdout)
    assert document["added"] > 8
    assert document["added"] + document["skipped"] + document["duplicates"] == planned["files"]
    assert planned["kinds"] == {"dicom": planned["files"]}
    hits = run("query", out, "--text", "magnetic resonance", "-k", 3, "--where", "modality = 'MR'", "--json")
    assert hits.exit_code == 0 and len(json.loads(hits.stdout)["hits"]) == 3
    like = json.loads(hits.stdout)["hits"][0]["key"]
    assert run("query", out, "--like", like, "--html", tmp_path / "hits.html").exit_code == 0
    assert run("index", "verify", out).exit_code == 0


def test_the_page_of_documentation_works(
    filled: tuple[Orthanc, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = filled
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[2] / "docs" / "dicomweb.md").read_text()
    page = page.replace("https://pacs.example/dicom-web", server.address)
    commands = [shlex.split(line[2:]) for line in page.splitlines() if line.startswith("$ osler ")]
    assert len(commands) >= 3
    for command in commands:
        result = run(*command[1:])
        assert result.exit_code == 0 and result.stdout, result.stderr
    (example,) = re.findall(r"^```py\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(example, "dicomweb.md", "exec"), names)
    assert names["report"].added > 3
    for name in re.findall(r"`(OSLER_LIMIT_[A-Z_]+)`", page):
        assert hasattr(LIMITS, name.removeprefix("OSLER_LIMIT_").lower())


class Dying:
    """A server that is gone after so many instances, and comes back on the same port."""

    def __init__(self, files: list[bytes], after: int) -> None:
        self._files = files
        self._after = after
        self.server = StandIn(files)
        self.server.fault = self._fault
        self.dead = False

    def _fault(self, asked: Asked, right: Reply) -> Reply:
        if self.server.count("file") > self._after:
            self.dead = True
        return Reply(503) if self.dead else right

    def back(self) -> StandIn:
        self.server.stop()
        self.server = StandIn(self._files, port=self.server.port)
        return self.server


@pytest.mark.parametrize("items", ["file", "series"])
def test_a_server_that_dies_leaves_what_resume_completes(
    tmp_path: Path, encoder: Path, items: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_FIRST_WAIT_SECONDS", 0.0)
    files = [file for series in range(10) for file in slices(3, f"1.2.{series + 10}")]
    dying = Dying(files, after=17)
    out = tmp_path / "cases.osler"
    arguments = ["index", "build", dying.server.root, "-o", out, "--encoder", encoder, "--items", items, "--json"]
    result = run(*arguments)
    assert result.exit_code == 1
    said = re.search(r'(\d+) items were added and are safe in ".*": run the same command with --resume', result.stderr)
    assert said and result.stdout == ""
    with osler.Collection.open(out) as cases:
        kept = len(cases)
        cases.verify()
        keys = set(cases.keys())
    assert kept == int(said[1]) and 0 < kept < (30 if items == "file" else 10)
    back = dying.back()
    result = run(*arguments, "--resume")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    expected = 30 if items == "file" else 10
    assert (document["added"], document["duplicates"], document["skipped"]) == (expected - kept, kept, 0)
    # Only what was missing was fetched.
    assert back.count("file") == 30 - kept * (1 if items == "file" else 3)
    back.stop()
    with osler.Collection.open(out) as cases:
        assert len(cases) == expected and keys <= set(cases.keys())
        cases.verify()


def test_orthanc_killed_and_started_again_completes(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(ingest, "_ENCODE_FRAMES", 1)
    monkeypatch.setattr(ingest, "_COMMIT_ITEMS", 2)
    folder = tmp_path / "files"
    folder.mkdir()
    for number, content in enumerate(slices(20)):
        (folder / f"{number}.dcm").write_bytes(content)
    server = Orthanc(tmp_path)
    try:
        assert len(server.fill(sorted(folder.iterdir()))) == 20
        with osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:

            def kill(done: int, total: int) -> None:
                if done == 5:
                    server.stop()

            with pytest.raises(ServerError, match=r"the connection is (refused|cut)|it ended in the middle"):
                cases.add(server.address, progress=kill)
            kept = len(cases)
            assert 4 <= kept < 20
            server.start()
            report = cases.add(server.address, progress=False)
            assert (report.added, report.duplicates, report.skipped) == (20 - kept, kept, 0)
    finally:
        server.stop()


def test_a_server_that_dies_at_once_leaves_nothing(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "_FIRST_WAIT_SECONDS", 0.0)
    with StandIn(slices(3)) as server:
        server.fault = lambda asked, right: Reply(503) if asked.level == "file" else right
        out = tmp_path / "cases.osler"
        result = run("index", "build", server.root, "-o", out, "--encoder", encoder)
        assert result.exit_code == 1 and "the server fails: status 503" in result.stderr
        assert not out.exists() and not (tmp_path / "cases.secret").exists()


def test_only_a_few_instances_are_fetched_ahead(tmp_path: Path, encoder: Path) -> None:
    with StandIn(slices(60)) as server, osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:
        ahead: list[int] = []

        def note(done: int, total: int) -> None:
            ahead.append(server.count("file") - done)

        report = cases.add(server.root, progress=note)
        assert report.added == 60 and max(ahead) <= ingest._AHEAD
        assert server.count("file") == 60


def test_what_changed_on_the_server_is_found_on_request(tmp_path: Path, encoder: Path) -> None:
    with StandIn(slices(3)) as server, osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:
        cases.add(server.root, progress=False)
        with StandIn(slices(3, PatientID="corrected"), port=0) as changed:
            server.answer = changed.answer  # type: ignore[method-assign]
            assert cases.add(server.root, progress=False).duplicates == 3
            assert changed.count("file") == 0
            report = cases.add(server.root, on_duplicate="replace", progress=False)
            assert report.added == 3 and changed.count("file") == 3


def test_a_deleted_item_is_fetched_again(tmp_path: Path, encoder: Path) -> None:
    with StandIn(slices(3)) as server, osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:
        cases.add(server.root, progress=False)
        cases.delete(cases.keys()[:1])
        report = cases.add(server.root, progress=False)
        assert (report.added, report.duplicates, server.count("file")) == (1, 2, 4)


def test_shards_of_a_server_are_all_of_it(tmp_path: Path, encoder: Path) -> None:
    with StandIn(slices(20)) as server, osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:
        added = [cases.add(server.root, shard=(i, 3), progress=False).added for i in (1, 2, 3)]
        assert sum(added) == 20 and max(added) < 20 and server.count("file") == 20


def test_a_place_on_a_server_gives_way_to_a_file_that_is_there(tmp_path: Path, encoder: Path) -> None:
    files = slices(2)
    folder = tmp_path / "files"
    folder.mkdir()
    for number, content in enumerate(files):
        (folder / f"{number}.dcm").write_bytes(content)
    with StandIn(files) as server, osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:
        cases.add(server.root, progress=False)
        assert cases.add(folder, progress=False).duplicates == 2
        # Contact sheets have a picture now.
        cases.search(vector=cases.vectors()[0]).to_html(tmp_path / "hits.html")
        assert "data:image/jpeg" in (tmp_path / "hits.html").read_text()


def test_ctrl_c_while_fetching_keeps_what_was_encoded(
    tmp_path: Path, encoder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingest, "_ENCODE_FRAMES", 1)
    with StandIn(slices(30)) as server, osler.Collection.create(tmp_path / "cases.osler", encoder=encoder) as cases:
        with pytest.raises(KeyboardInterrupt):
            cases.add(server.root, progress=lambda done, total: done < 6)
        assert len(cases) == 6
        assert cases.add(server.root, progress=False).added == 24


def test_a_server_is_alone_and_its_slides_are_not_tiled(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="a server must be the only source"):
        open_source(["https://pacs.example/dicom-web", str(tmp_path)])
    with pytest.raises(ValueError, match="a server must be the only source, without tiles"):
        open_source("https://pacs.example/dicom-web", tiles="224@0.5")
    assert run("index", "build", "https://pacs.example/dicom-web", tmp_path, "-o", tmp_path / "a.osler").exit_code == 2


def test_options_are_checked_before_a_server_is_asked_for_all(tmp_path: Path) -> None:
    with StandIn(slices(3)) as server:
        for more in (["--keep", "NoSuchTag"], ["--metadata", __file__]):
            result = run("index", "build", server.root, "-o", tmp_path / "a.osler", *more)
            assert result.exit_code == 2 and not server.asked, result.stderr
        result = run("index", "build", f"{server.root}?Modality=MR", "-o", tmp_path / "a.osler")
        assert result.exit_code == 2 and "nothing of what the address asks for" in result.stderr
        assert server.count("file") == 0 and not (tmp_path / "a.osler").exists()


def test_there_is_an_orthanc_where_there_must_be_one() -> None:
    makefile = (Path(__file__).parents[2] / "Makefile").read_text()
    assert "tests/orthanc.sh" in makefile
    assert "OSLER_TEST_ORTHANC=required" in (Path(__file__).parents[2] / ".ci" / "run").read_text()
    assert subprocess.run(["bash", "-n", str(Path(__file__).parents[1] / "orthanc.sh")], check=True).returncode == 0
    assert dicomweb._FAILURES_IN_A_ROW > 1 and isinstance(run, Callable)  # type: ignore[arg-type]
