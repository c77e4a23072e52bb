"""Promises of jobs.http.watched_stream that the tests of its users do not show."""

from collections.abc import Generator

import httpx

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
