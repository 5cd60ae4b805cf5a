"""The names, arguments and defaults that programs outside the project are written against.

One line a callable, as in the design's page on the public surface; a change here is a change for every user.
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any

import osler
import pytest

# Exactly these parameters.
EXACT = {
    "Index": "(dim, *, metric='cosine', codes='auto', keep_vectors='ram', memory=None, seed=0)",
    "Index.build": (
        "(vectors, keys=None, *, metric='cosine', codes='auto', keep_vectors='ram', memory=None, threads=None, seed=0,"
        " progress=False)"
    ),
    "Index.open": "(path, *, mmap=True)",
    "Index.delete": "(keys)",
    "Index.search": (
        "(queries, k=10, *, recall=0.95, ef=None, filter=None, groups=None, group_size=1, exclude_groups=None,"
        " exclude_by=None, exact=False, threads=None)"
    ),
    "Index.search_items": (
        "(queries, items, k=10, *, score='max', offsets=None, recall=0.95, filter=None, groups=None, group_size=1,"
        " exclude_groups=None, exclude_by=None, exact=False, threads=None)"
    ),
    "Index.bitmap": "(mask_or_keys)",
    "Index.groups": "(ids)",
    "Index.get": "(keys)",
    "Index.save": "(path)",
    "Index.verify": "()",
    "Index.stats": "()",
    "list_encoders": "()",
    "Collection.delete": "(keys=None, where=None)",
    "Collection.keys": "(where=None)",
    "Collection.vectors": "(keys=None, where=None)",
    "Collection.to_polars": "(where=None)",
    "Collection.get": "(keys, missing='raise')",
    "Collection.count": "(where=None)",
    "Collection.unique": "(column)",
    "Collection.info": "()",
    "Collection.verify": "()",
    "Collection.close": "()",
}

# At least these parameters, by these names and with these defaults; more may be added with defaults, by name only.
AT_LEAST = {
    "Index.calibrate": "(queries=None)",
    "Index.search_range": "(queries, threshold, *, filter=None)",
    "Index.add": "(vectors, keys=None)",
    "load_encoder": "(name, device='auto')",
    "Encoder.encode_images": "(images, batch_size=None, progress=False)",
    "Encoder.encode_texts": "(texts, batch_size=None, progress=False, long='split')",
    "Encoder.encode_volumes": "(volumes, pooling='mean')",
    "Collection.create": "(path, *, encoder=None, dim=None)",
    "Collection.open": "(path, mode='r')",
    "Collection.add": (
        "(source, *, metadata=None, keep=(), items='file', on_error='skip', on_duplicate='skip', progress=True)"
    ),
    "Collection.add_vectors": (
        "(keys, vectors, *, metadata=None, parts=None, locators=None, kind='image', on_duplicate='error')"
    ),
    "Collection.search": (
        "(*, image=None, text=None, vector=None, like=None, k=10, where=None, group_by=None, exclude=None, kind=None,"
        " score='max', recall=0.95)"
    ),
    "Collection.search_many": (
        "(*, images=None, texts=None, vectors=None, k=10, where=None, group_by=None, exclude=None, kind=None,"
        " score='max', recall=0.95)"
    ),
    "classify.zero_shot": "(cases, prompts, *, encoder=None, mode='softmax', where=None)",
    "curate.near_duplicates": "(cases_or_vectors, *, threshold=0.95, keys=None)",
    "curate.score_filter": "(cases, *, threshold=None, fraction=None, encoder=None)",
    "sources.open_source": "(source, *, keep=(), metadata=None, items='file')",
}

PROPERTIES = {
    "Index": ("keys", "dim", "metric", "codes"),
    "Found": ("keys", "scores", "counts"),
    "FoundItems": ("items", "scores", "parts", "counts"),
    "Encoder": ("dim", "fingerprint", "modalities", "manifest", "device"),
    "Collection": ("schema",),
}

METHODS = {
    "Index": ("__len__", "__contains__", "__repr__", "__reduce__"),
    "Bitmap": ("__and__", "__or__", "__invert__", "__sub__", "__len__"),
    "Collection": ("__len__", "__contains__", "__getitem__", "__enter__", "__exit__"),
    "collection.Hits": ("__len__", "__iter__", "__getitem__", "to_polars", "to_pandas", "to_html", "show"),
}


def find(name: str) -> Any:
    value: Any = osler
    for part in name.split("."):
        value = getattr(value, part)
    return value


def parameters(name: str) -> list[inspect.Parameter]:
    value = find(name)
    listed = list(inspect.signature(value).parameters.values())
    if "." in name and inspect.isclass(find(name.rpartition(".")[0])) and listed and listed[0].name == "self":
        listed = listed[1:]
    return listed


def expected(signature: str) -> list[inspect.Parameter]:
    return list(inspect.signature(eval(f"lambda {signature[1:-1]}: None")).parameters.values())


def plain(parameter: inspect.Parameter) -> tuple[str, str, Any]:
    kind = parameter.kind
    return parameter.name, "by name" if kind is inspect.Parameter.KEYWORD_ONLY else "by position", parameter.default


@pytest.mark.parametrize("name", EXACT)
def test_exact_signature(name: str) -> None:
    assert [plain(found) for found in parameters(name)] == [plain(wanted) for wanted in expected(EXACT[name])]


@pytest.mark.parametrize("name", AT_LEAST)
def test_signature_has_at_least(name: str) -> None:
    found = {parameter.name: parameter for parameter in parameters(name)}
    wanted = expected(AT_LEAST[name])
    for parameter in wanted:
        if parameter.default is inspect.Parameter.empty:
            continue
        assert parameter.name in found
        assert found[parameter.name].default == parameter.default, parameter.name
        assert found[parameter.name].kind is not inspect.Parameter.POSITIONAL_ONLY
    needed = [parameter.name for parameter in found.values() if parameter.default is inspect.Parameter.empty]
    assert len(needed) == len([parameter for parameter in wanted if parameter.default is inspect.Parameter.empty])
    for name_of in found.keys() - {parameter.name for parameter in wanted} - set(needed):
        assert found[name_of].kind is inspect.Parameter.KEYWORD_ONLY, f"{name_of} is not keyword-only"


@pytest.mark.parametrize("name", [*EXACT, *AT_LEAST])
def test_no_argument_swallows_misspelt_ones(name: str) -> None:
    kinds = {parameter.kind for parameter in parameters(name)}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


@pytest.mark.parametrize("name", PROPERTIES)
def test_attributes(name: str) -> None:
    for attribute in PROPERTIES[name]:
        described = inspect.getattr_static(find(name), attribute)
        assert not inspect.isroutine(described), f"{name}.{attribute} is a method"


@pytest.mark.parametrize("name", METHODS)
def test_methods(name: str) -> None:
    for method in METHODS[name]:
        assert callable(getattr(find(name), method))


def test_every_name_of_the_package_resolves() -> None:
    assert set(osler.__all__) == {*osler._HOME, *osler._MODULES, "__version__"}
    for name in osler.__all__:
        assert getattr(osler, name) is not None
    assert set(osler.__all__) <= set(dir(osler))
    with pytest.raises(AttributeError, match="Indexx"):
        osler.Indexx  # noqa: B018


def test_every_public_module_lists_its_names() -> None:
    for name in osler._MODULES:
        module = importlib.import_module(f"osler.{name}")
        assert module.__all__, name
        for public in module.__all__:
            assert hasattr(module, public), f"{name}.{public}"


ERRORS = {
    "CorruptIndexError": ("corrupt", ValueError),
    "FormatVersionError": ("format_version", Exception),
    "ReadOnlyError": ("read_only", Exception),
    "LockedError": ("locked", Exception),
    "CommitUnknownError": ("commit_unknown", Exception),
    "ForkedHandleError": ("forked", Exception),
    "EncoderError": ("encoder", Exception),
    "ServerError": ("server", Exception),
    "InternalError": ("internal", Exception),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_are_one_tree(name: str) -> None:
    import pickle

    code, builtin = ERRORS[name]
    kind = getattr(osler, name)
    assert issubclass(kind, osler.Error)
    assert issubclass(kind, builtin)
    assert kind.__module__ == "osler.errors"
    raised = pickle.loads(pickle.dumps(kind("what, where, what to do")))
    assert (str(raised), raised.code, type(raised)) == ("what, where, what to do", code, kind)


def test_public_classes_say_they_are_oslers() -> None:
    for name in ("Index", "Bitmap", "Found", "FoundItems", "Groups"):
        assert getattr(osler, name).__module__ in ("osler", "osler.index"), name
