"""Fixtures and Hypothesis profiles of the whole suite.

Touches the environment of the test process: every source of chance is seeded and the seed is printed, and no test
reaches the network unless it is marked `sockets`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import numpy as np
import onnxruntime  # noqa: F401  (before usearch, which some tests import: the other way round the process crashes)
import pytest
import text_vectors as text
from hypothesis import HealthCheck, settings

# what needs PyTorch and the libraries of the original models runs in an environment of its own
collect_ignore_glob = [] if os.environ.get("OSLER_TEST_EXPORT") == "1" else ["export/*"]

SEED = int(os.environ.get("OSLER_TEST_SEED", "0"))

COMMON: dict[str, Any] = {"deadline": None, "print_blob": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", derandomize=True, max_examples=50, **COMMON)
settings.register_profile("dev", max_examples=50, **COMMON)
settings.register_profile("long", max_examples=2_000, **COMMON)
settings.load_profile("ci")

_connect, _connect_ex = socket.socket.connect, socket.socket.connect_ex
_network_is_open = False


def _refuse(address: Any) -> None:
    if not _network_is_open and not isinstance(address, (str, bytes)):
        raise PermissionError("this test opened a network connection; mark it `sockets` if that is what it is about")


def _guarded_connect(self: socket.socket, address: Any) -> Any:
    _refuse(address)
    return _connect(self, address)


def _guarded_connect_ex(self: socket.socket, address: Any) -> Any:
    _refuse(address)
    return _connect_ex(self, address)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "sockets: the test may open network connections")
    config.addinivalue_line("markers", "slow: takes more than ten seconds; part of `make test` all the same")
    socket.socket.connect = _guarded_connect  # type: ignore[method-assign]
    socket.socket.connect_ex = _guarded_connect_ex  # type: ignore[method-assign]


def pytest_unconfigure(config: pytest.Config) -> None:
    socket.socket.connect = _connect  # type: ignore[method-assign]
    socket.socket.connect_ex = _connect_ex  # type: ignore[method-assign]


def pytest_report_header(config: pytest.Config) -> str:
    profile = config.getoption("--hypothesis-profile", None) or "ci"
    return f"seed {SEED} (OSLER_TEST_SEED), hypothesis profile {profile} (ci: derandomised)"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    global _network_is_open
    _network_is_open = item.get_closest_marker("sockets") is not None
    try:
        return (yield)
    finally:
        _network_is_open = False


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of this run, `$OSLER_TEST_SEED` or 0."""
    return SEED


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator that starts anew in every test."""
    return np.random.default_rng(SEED)


@pytest.fixture(scope="session")
def text_vectors(request: pytest.FixtureRequest) -> text.TextVectors:
    """Real text embeddings: 60,000 rows where `$OSLER_TEST_VECTORS` has them, else 5,000 made from the packages."""
    cache = request.config.cache
    assert cache is not None
    return text.load(cache.mkdir("osler-text-vectors"))
