"""Fixtures that more than one file asks for."""

import gc
import os
import signal
import ssl
from collections.abc import Generator, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from httpx import create_ssl_context
from httpx._transports import default as transports
from hypothesis import settings

from jobs.core.clock import SystemClock
from jobs.testing.clock import HandClock
from tests.modal.platform.interpreters import told
from tests.support.stores import Store, open_store

# Who starts a suite in the background may have had Ctrl-C ignored, and what the tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A shared machine stalls for seconds now and then; a promise about time would be a benchmark. Each run draws anew, so
# half as many examples as usual look as far, over two runs.
settings.register_profile("house", deadline=None, max_examples=50)
settings.load_profile("house")


@cache
def _trusted(trust_env: bool, *_: str | None) -> ssl.SSLContext:
    return create_ssl_context(trust_env=trust_env)


def _shared_certificates(verify: Any = True, cert: Any = None, trust_env: bool = True) -> ssl.SSLContext:
    """Those whom httpx trusts, read once from where they lie: tests make thousands of clients, and each would take a
    fortieth of a second of processor to read them again."""
    if verify is not True or cert is not None:
        return create_ssl_context(verify, cert, trust_env)
    return _trusted(trust_env, os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR"))


pytest.MonkeyPatch().setattr(transports, "create_ssl_context", _shared_certificates)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """On which Python the containers of a deployment run here: the images' own is not on every machine."""
    if config.get_verbosity() < 0:
        return []
    from app.resources import PYTHON  # noqa: PLC0415 - takes as long as a small test

    return [told(PYTHON)]


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is read here stays until the end: the collector need not look at it while it comes, nor ever again.

    Looking took a quarter of the time to read the tests, and a fifteenth of that to run them.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The folders with the slowest files first: one that begins last has the machine to itself for minutes."""
    items.sort(key=lambda item: not item.nodeid.startswith(("tests/modal/", "tests/silence/", "tests/e2e/")))


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path, clock: HandClock) -> Iterator[Store]:
    """A store on a real SQLite file, its clock moved by hand."""
    opened = open_store(tmp_path / "ledger.sqlite", clock)
    yield opened
    opened.close()


@pytest.fixture
def live_store(tmp_path: Path) -> Iterator[Store]:
    """A store on a real SQLite file and the machine's clock, for tests with real threads and processes."""
    opened = open_store(tmp_path / "live.sqlite", SystemClock())
    yield opened
    opened.close()
