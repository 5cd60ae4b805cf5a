"""Every example in a docstring runs, and every public callable has one.

Public means listed in a module's `__all__`; methods of public classes count, those of the compiled ones included.
"""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import inspect
import pkgutil
from collections.abc import Iterator
from typing import Any

import osler
import pytest

FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS


def module_names() -> list[str]:
    names = ["osler"]
    torch = importlib.util.find_spec("torch") is not None
    for found in pkgutil.walk_packages(osler.__path__, "osler."):
        if found.name.startswith("osler.encoders.export.modules.") and not torch:
            continue  # networks in PyTorch, imported where an export runs
        if not found.name.startswith("osler._") and not found.name.endswith(".__main__"):
            names.append(found.name)
    return sorted(names)


def members(owner: type) -> Iterator[tuple[str, Any]]:
    """Return the public methods and properties that a class defines itself."""
    for name, value in sorted(vars(owner).items()):
        if not name.startswith("_"):
            inner = value.__func__ if isinstance(value, (classmethod, staticmethod)) else value
            yield name, inner


def documented(module: Any) -> Iterator[tuple[str, str]]:
    """Return (name, docstring) of a module, what it defines and the members of its classes."""
    yield module.__name__, module.__doc__ or ""
    for name, value in sorted(vars(module).items()):
        home = getattr(value, "__module__", None)
        own = home == module.__name__ or (module.__name__ == "osler.index" and home in ("osler", "osler._native"))
        if not own or not (inspect.isclass(value) or inspect.isroutine(value)):
            continue
        yield f"{module.__name__}.{name}", value.__doc__ or ""
        if inspect.isclass(value):
            for member, inner in members(value):
                yield f"{module.__name__}.{name}.{member}", getattr(inner, "__doc__", None) or ""


@pytest.mark.parametrize("name", module_names())
def test_examples_run(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(name)
    parser, runner = doctest.DocTestParser(), doctest.DocTestRunner(optionflags=FLAGS)
    reports: list[str] = []
    for where, text in documented(module):
        case = parser.get_doctest(text, {"osler": osler}, where, getattr(module, "__file__", None), 0)
        if case.examples:
            runner.run(case, out=reports.append)
    assert runner.summarize(verbose=False).failed == 0, "".join(reports)


def public_callables() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for module_name in ("osler", *(f"osler.{name}" for name in osler._MODULES)):
        module = importlib.import_module(module_name)
        for name in module.__all__:
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isroutine(value):
                found[f"{value.__module__}.{name}"] = value
    return found


def has_example(text: str | None) -> bool:
    return ">>> " in (text or "")


@pytest.mark.parametrize("name", public_callables())
def test_public_callables_have_an_example(name: str) -> None:
    """A class may show its methods in its own example; plain records and exceptions need only words."""
    value = public_callables()[name]
    assert (value.__doc__ or "").strip(), "no docstring"
    if not inspect.isclass(value):
        assert has_example(value.__doc__)
        return
    methods = {key: inner for key, inner in members(value) if callable(inner) and not isinstance(inner, type)}
    for method, inner in methods.items():
        assert (inner.__doc__ or "").strip(), f"{method} has no docstring"
    if issubclass(value, BaseException) or not methods:
        return
    shown = "\n".join([value.__doc__ or "", *(inner.__doc__ or "" for inner in methods.values())])
    assert has_example(shown), "neither the class nor a method has an example"
    examples = "\n".join(line for line in shown.splitlines() if line.lstrip().startswith((">>>", "...")))
    unseen = [method for method in methods if f".{method}(" not in examples]
    assert not unseen, f"no example calls {', '.join(unseen)}"
