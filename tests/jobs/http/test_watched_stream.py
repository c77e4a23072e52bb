"""Promises of jobs.http.watched_stream that the tests of its users do not show."""

from collections.abc import Generator
from typing import Any

import httpx
import pytest

from jobs.http.watched_stream import Lifeline
from jobs.testing.models import arbitrary
from jobs.testing.registry.server import RegistryDouble
from tests.support.waiting import PATIENCE

MODEL = arbitrary("long", 3_000_000)


def test_who_lets_go_of_a_stream_that_was_cut_hears_nothing() -> None:
    """What is half read, and cut, ends in silence when nobody reads on: it has nobody to tell."""
    lifeline = Lifeline()
    with RegistryDouble([MODEL]) as registry, httpx.Client(timeout=PATIENCE) as client:
        url = f"{registry.url}/v2/library/long/blobs/{MODEL.layers[0].digest}"
        request = client.build_request("GET", url, extensions=lifeline.extensions)
        response = client.send(request, stream=True, follow_redirects=True)
        pieces = response.iter_raw()
        assert isinstance(pieces, Generator)
        assert next(pieces)
        lifeline.cut()
        pieces.close()
        response.close()


def test_a_connection_that_is_made_after_the_cut_is_closed() -> None:
    """Who cuts while the other thread connects leaves no socket behind."""
    lifeline, made = Lifeline(), []

    def cut_meanwhile(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            made.append(info["return_value"].get_extra_info("socket"))
            lifeline.cut()
        lifeline.extensions["trace"](event, info)

    with RegistryDouble([MODEL]) as registry, httpx.Client(timeout=PATIENCE) as client:
        with pytest.raises(httpx.ReadError, match="was cut"):
            client.get(f"{registry.url}/v2/", extensions={"trace": cut_meanwhile})
        assert [each.fileno() for each in made] == [-1]
