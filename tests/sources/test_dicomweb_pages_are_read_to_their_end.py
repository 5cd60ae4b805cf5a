"""Each instance that a DICOMweb server lists is an entry once, however the server pages, and the asking ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dicomweb_stand_in import Asked, Reply, StandIn, slices
from osler.errors import ServerError, SourceError
from osler.sources import open_source, qido, web
from osler.sources.dicomweb import ServerSource, open_server

pytestmark = [pytest.mark.sockets, pytest.mark.timeout(120)]

FILES = [file for series in ("1.2.3", "1.2.4", "1.3.5") for file in slices(7, series)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(web, "_FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(qido, "_PAGE", 3)
    monkeypatch.setattr(qido.Listing.__init__, "__defaults__", (3,))
    with StandIn(FILES) as one:
        yield one


def entries(server: StandIn, query: str = "", **options: Any) -> list[str]:
    source = open_server(server.root + query, **options)
    source.close()
    assert server.count("file") == 0
    assert len({entry.locator for entry in source.entries}) == len(source)
    return [entry.locator for entry in source.entries]


EVERY = sorted(
    f"studies/{series[:3]}/series/{series}/instances/{series}.{100 + i}"
    for series in ("1.2.3", "1.2.4", "1.3.5")
    for i in range(7)
)


def test_a_server_that_pages_as_it_should(server: StandIn) -> None:
    assert entries(server) == EVERY
    assert {asked.query["limit"] for asked in server.asked} == {"3"}
    # One page of series and an empty one; three pages of the instances of each, of which the last is not full, and one
    # that has nothing new.
    assert (server.count("series"), server.count("instances")) == (2, 12)


def test_entries_have_one_order_whatever_that_of_the_server_is(server: StandIn) -> None:
    server.fault = lambda asked, right: right.with_json(right.json()[::-1])
    assert entries(server) == EVERY
    source = open_server(server.root)
    assert [entry.number for entry in source.entries] == list(range(21))
    source.close()


@pytest.mark.parametrize("most", [1, 2, 3, 4, 100])
@pytest.mark.parametrize("takes_limit", [True, False])
@pytest.mark.parametrize("takes_offset", [True, False])
def test_limits_and_offsets_that_a_server_passes_over(
    server: StandIn, most: int, takes_limit: bool, takes_offset: bool
) -> None:
    server.most, server.takes_limit, server.takes_offset = most, takes_limit, takes_offset
    found = entries(server)
    if takes_offset or most >= 7:
        assert found == EVERY
    else:
        # It gives its first page for ever, and there is nothing to ask it by for the rest.
        assert len(found) == min(most, 3) * min(most, 7) and set(found) <= set(EVERY)
    assert len(server.asked) < 60


def test_an_offset_that_is_passed_over_is_made_good_by_asking_for_all(server: StandIn) -> None:
    server.takes_offset = False
    assert entries(server) == EVERY
    assert any("limit" not in asked.query for asked in server.asked)


def test_a_count_that_is_not_reached_is_a_warning(server: StandIn) -> None:
    server.most, server.takes_offset = 2, False

    def counts(asked: Asked, right: Reply) -> Reply:
        if asked.level != "series":
            return right
        return right.with_json([record | {"00201209": {"vr": "IS", "Value": [7]}} for record in right.json()])

    server.fault = counts
    with pytest.warns(RuntimeWarning, match="lists fewer instances of 2 series than it counts"):
        assert len(entries(server)) == 4


def test_a_count_spares_the_page_that_has_nothing_new(server: StandIn) -> None:
    def counts(asked: Asked, right: Reply) -> Reply:
        if asked.level != "series":
            return right
        return right.with_json([record | {"00201209": {"vr": "IS", "Value": ["7"]}} for record in right.json()])

    server.fault = counts
    assert entries(server) == EVERY
    assert server.count("instances") == 9


def test_pages_that_overlap_give_nothing_twice(server: StandIn) -> None:
    def overlapping(asked: Asked, right: Reply) -> Reply:
        return right.with_json(right.json() + right.json()[:1])

    server.fault = overlapping
    assert set(entries(server)) <= set(EVERY)
    server.fault = lambda asked, right: right.with_json(right.json() * 3)
    server.takes_limit = False
    assert entries(server) == EVERY


@pytest.mark.parametrize("reply", [Reply(204), Reply(200), Reply(200, body=b" \r\n"), Reply(200, framing="close")])
def test_nothing_is_said_in_several_ways(server: StandIn, reply: Reply) -> None:
    server.fault = lambda asked, right: right if right.json() else reply
    assert entries(server) == EVERY
    assert entries(server, "?Modality=MR") == []


def test_a_series_that_is_gone_meanwhile_has_nothing(server: StandIn) -> None:
    server.fault = lambda asked, right: Reply(404) if "1.2.4/instances" in asked.path else right
    assert entries(server) == [locator for locator in EVERY if "1.2.4" not in locator]


def test_a_series_that_fails_is_an_outcome_of_its_own(server: StandIn) -> None:
    server.fault = lambda asked, right: Reply(500) if "1.2.4/instances" in asked.path else right
    source = open_server(server.root)
    assert len(source) == 15
    with pytest.raises(SourceError, match="a series without its instances") as caught:
        source.read(next(entry for entry in source.entries if "1.2.4" in entry.locator))
    assert caught.value.code == "not_served"
    source.close()


@pytest.mark.parametrize("parameter", ["includefield", "limit"])
@pytest.mark.parametrize("status", [400, 501])
def test_parameters_that_are_refused_are_left_out(server: StandIn, parameter: str, status: int) -> None:
    server.fault = lambda asked, right: Reply(status) if parameter in asked.query else right
    assert entries(server) == EVERY
    # What a server does not take is found out once.
    assert sum(parameter in asked.query for asked in server.asked) <= 2


def test_a_media_type_that_is_refused_is_followed_by_another(server: StandIn) -> None:
    def old(asked: Asked, right: Reply) -> Reply:
        return Reply(406) if asked.headers["accept"] == "application/dicom+json" else right

    server.fault = old
    assert entries(server) == EVERY


@pytest.mark.parametrize("status", [400, 404, 405, 501])
def test_a_server_that_does_not_search_all_series(server: StandIn, status: int) -> None:
    server.fault = lambda asked, right: Reply(status) if asked.path == "/series" else right
    assert entries(server) == EVERY
    assert server.count("studies") > 0
    # The refusal was of this search, not of paging.
    assert all("limit" in asked.query for asked in server.asked if asked.level == "instances")


def without(tag: str, **instead: str) -> Any:
    def fault(asked: Asked, right: Reply) -> Reply:
        records = right.json()
        for record in records:
            if asked.path == "/series":
                study, series = (record[one]["Value"][0] for one in ("0020000D", "0020000E"))
                record.pop(tag)
                for name, form in instead.items():
                    record[f"0{name[1:]}"] = {"vr": "UR", "Value": [form.format(study=study, series=series)]}
        return right.with_json(records)

    return fault


def test_the_study_of_a_series_may_stand_in_its_url(server: StandIn) -> None:
    for form in ("http://elsewhere.example/x/studies/{study}/series/{series}", "studies/{study}/series/{series}"):
        server.asked.clear()
        server.fault = without("0020000D", _0081190=form)
        assert entries(server) == EVERY
        assert server.count("studies") == 0


def test_a_series_of_no_known_study_is_found_by_its_study(server: StandIn) -> None:
    server.fault = without("0020000D")
    assert entries(server) == EVERY
    assert server.count("studies") > 0


@pytest.mark.parametrize(
    "uri", ["bulk/1", "../../1", "http://elsewhere.example/1", "//elsewhere.example/1", "file:///etc"]
)
def test_bulk_data_are_not_followed(server: StandIn, uri: str) -> None:
    def bulky(asked: Asked, right: Reply) -> Reply:
        bulk = {"00081030": {"vr": "LO", "BulkDataURI": uri}, "00080016": {"vr": "UI", "BulkDataURI": uri}}
        return right.with_json([record | bulk for record in right.json()])

    server.fault = bulky
    assert entries(server) == EVERY
    assert all(asked.path.startswith(("/series", "/studies")) and "bulk" not in asked.path for asked in server.asked)


@pytest.mark.parametrize(
    "uid", ["../../instances", "1.2/3", "", "?x=1", "1.2 3", None, 7.5, ["1"], "x" * 200, "..", "é"]
)
def test_a_uid_that_leads_elsewhere_is_not_asked_for(server: StandIn, uid: Any) -> None:
    def wrong(asked: Asked, right: Reply) -> Reply:
        records = right.json() if asked.level == "instances" else []
        for record in records:
            if record["00080018"]["Value"] == ["1.2.3.100"]:
                record["00080018"]["Value"] = [uid]
        return right.with_json(records) if records else right

    server.fault = wrong
    source = open_server(server.root)
    assert len(source) == 21
    for entry in source.entries:
        if entry.locator not in EVERY:
            with pytest.raises(SourceError):
                source.read(entry)
            break
    else:
        raise AssertionError("the record is missing")
    assert all(
        asked.path.startswith("/studies/") and ".." not in asked.path
        for asked in server.asked[1:]
        if asked.level == "file"
    )
    source.close()


@pytest.mark.parametrize(
    "body",
    [
        b"<html>log in</html>",
        b"{}",
        b'["text"]',
        b'"text"',
        b"[" * 100_000,
        b'[{"0020000E": ' + b"9" * 5_000 + b"}]",
        b"\xff\xfe\x00",
    ],
)
def test_what_is_no_dicom_json_is_refused_at_once(server: StandIn, body: bytes) -> None:
    server.fault = lambda asked, right: Reply(200, "text/html", body)
    with pytest.raises(ServerError, match="does not answer a search with DICOM JSON"):
        open_server(server.root)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "record",
    [{"0020000E": None}, {"0020000E": []}, {"0020000E": {"Value": {}}}, {"0020000E": {"Value": [{"a": 1}]}}, {}],
)
def test_records_of_another_shape_are_passed_over(server: StandIn, record: Any) -> None:
    def odd(asked: Asked, right: Reply) -> Reply:
        return right.with_json([record, *right.json()]) if asked.level == "series" else right

    server.fault = odd
    server.most = 100
    server.takes_limit = False
    assert entries(server) == EVERY


def test_text_that_is_not_utf_8_does_not_matter(server: StandIn) -> None:
    def latin(asked: Asked, right: Reply) -> Reply:
        return dataclasses.replace(right, body=right.body.replace(b"zq-patient", b"\xe9zq"))

    server.fault = latin
    assert entries(server) == EVERY


def test_a_list_without_an_end_ends(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qido, "LIMITS", dataclasses.replace(qido.LIMITS, listed=50))

    def endless(asked: Asked, right: Reply) -> Reply:
        if asked.level != "instances":
            return right
        start = int(asked.query["offset"])
        return right.with_json([{"00080018": {"Value": [f"9.{start + i}"]}} for i in range(3)])

    server.fault = endless
    with pytest.raises(ServerError, match="lists without an end"):
        open_server(server.root)


def test_a_list_that_is_too_long_is_refused(server: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qido, "LIMITS", dataclasses.replace(qido.LIMITS, listed=20))
    with pytest.raises(ServerError, match=r"lists more than 20 instances; ask for fewer, as by \?StudyDate="):
        open_server(server.root)
    monkeypatch.setattr(qido, "LIMITS", dataclasses.replace(qido.LIMITS, answer_bytes=100))
    with pytest.raises(ServerError, match="lists more at once than 100 bytes"):
        open_server(server.root)


def test_a_search_is_asked_where_its_attributes_are(server: StandIn) -> None:
    assert entries(server, "?PatientID=zq-patient-1.2&Modality=CT") == EVERY[:14]
    assert {asked.level for asked in server.asked if "PatientID" in asked.query} == {"studies"}
    assert {asked.level for asked in server.asked if "Modality" in asked.query} == {"series"}
    assert entries(server, "?SOPInstanceUID=1.2.3.104") == [EVERY[4]]
    assert entries(server, "?StudyDate=20240301&StudyInstanceUID=1.3") == EVERY[14:]


def test_attributes_are_named_by_keyword_tag_or_path(server: StandIn) -> None:
    assert entries(server, "?00080060=CT&fuzzymatching=true") == EVERY
    (query,) = {tuple(asked.query.items())[:2] for asked in server.asked if asked.level == "series"}
    assert query == (("Modality", "CT"), ("fuzzymatching", "true"))
    server.asked.clear()
    name = "RequestAttributesSequence.ScheduledProcedureStepID"
    assert entries(server, f"?{name}=a%20b%2Bc") == EVERY
    assert {asked.query[name] for asked in server.asked if asked.level == "series"} == {"a b+c"}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/studies", EVERY),
        ("/series/", EVERY),
        ("/instances", EVERY),
        ("/studies/1.2", EVERY[:14]),
        ("/studies/1.2/series/1.2.4", EVERY[7:14]),
        ("/studies/1.2/series/1.2.4/instances", EVERY[7:14]),
        ("/studies/1.2/series/1.2.4/instances/1.2.4.103", EVERY[10:11]),
        ("/studies/1.2/series/1.2.4?PatientID=zq-patient-1.2", EVERY[7:14]),
        ("/studies/1.2/series/1.2.4?PatientID=zq-patient-1.3", []),
        ("/studies/1.2/series/1.2.4?Modality=CT", EVERY[7:14]),
        ("/studies/1.2/series/1.2.4/instances/1.2.4.103?SOPClassUID=1.2.840.10008.5.1.4.1.1.2", EVERY[10:11]),
        ("/studies/1.9", []),
    ],
)
def test_an_address_may_name_a_study_a_series_or_an_instance(server: StandIn, path: str, found: list[str]) -> None:
    assert entries(server, path) == found


def test_a_filter_that_a_server_passes_over_is_applied_here(server: StandIn) -> None:
    files = slices(2, "1.2.3", Modality="MR") + slices(2, "1.4.4", StudyDate="20230301") + slices(2, "1.3.5")
    with StandIn(files) as careless:
        answer = careless.answer

        def without_filters(asked: Asked) -> Reply:
            kept = {name: value for name, value in asked.query.items() if name in ("limit", "offset")}
            return answer(dataclasses.replace(asked, query=kept))

        careless.answer = without_filters  # type: ignore[method-assign]
        for query, series in (
            ("?Modality=MR", {"1.2.3"}),
            ("?Modality=ct", {"1.4.4", "1.3.5"}),
            ("?Modality=MR,CT", {"1.2.3", "1.4.4", "1.3.5"}),
            ("?Modality=M*", {"1.2.3"}),
            ("?Modality=M?", {"1.2.3"}),
            ("?StudyDate=20240101-", {"1.2.3", "1.3.5"}),
            ("?PatientID=zq-patient-1.3", {"1.3.5"}),
            ("?StudyInstanceUID=1.2,1.3", {"1.2.3", "1.3.5"}),
            ("?SeriesInstanceUID=1.4.4", {"1.4.4"}),
            ("?PatientID=.*", set()),
        ):
            found = entries(careless, query)
            assert {locator.split("/")[3] for locator in found} == series, query


def test_series_are_joined_and_what_has_no_picture_is_not(server: StandIn) -> None:
    source = open_source(server.root, items="series")
    assert [len(entry.members) for entry in source.entries] == [7, 7, 7]
    assert source.entries[0].locator == EVERY[0]
    source.close()
    report = slices(1, "1.2.3", SOPInstanceUID="1.2.3.9", Rows=None)
    with StandIn(FILES[:7] + report) as mixed:
        source = open_source(mixed.root, items="series")
        assert [len(entry.members) for entry in source.entries] == [7, 0]
        source.close()


def test_a_table_is_joined_by_path_and_by_uid(server: StandIn) -> None:
    for items in ("file", "series"):
        for column, value in (("path", EVERY[3]), ("file", "1.2.3.103"), ("SOPInstanceUID", "1.2.3.103")):
            rows = [{column: value, "label": "x"}]
            source = open_source(server.root, metadata=rows, items=items)
            labels = [source.read(entry).metadata.get("label") for entry in source.entries[:7]]
            assert [label for label in labels if label] == ["x"], (items, column)
            assert source.unmatched_rows == 0
            source.close()


def test_a_server_is_listed_and_not_fetched_until_it_is_read(server: StandIn) -> None:
    source = open_source(server.root)
    assert isinstance(source, ServerSource) and server.count("file") == 0
    source.read(source.entries[5])
    assert [asked.path for asked in server.asked if asked.level == "file"] == [f"/{source.entries[5].locator}"]
    source.close()


def test_the_pages_of_a_test_are_those_of_the_listing() -> None:
    # The fixture makes pages of three; the real ones are longer.
    assert qido.Listing.__init__.__defaults__ == (qido._PAGE,) and qido._PAGE >= 100
    assert json.loads(Reply().with_json([1]).body) == [1] and Path(EVERY[0]).name == "1.2.3.100"
