"""A gateway for a file's tests, and behind it a server that plays what each tells it to."""

from collections.abc import Iterator

import pytest

from app.gateway.upstream.upstream_client import Patience
from tests.app.gateway.direct.test_direct_answers import KEYS, Server
from tests.support.gateways import RunningGateway, gateway
from tests.support.scripted_server import ScriptedServer


@pytest.fixture(scope="module")
def told() -> Server:
    return Server()


@pytest.fixture(scope="module")
def running(told: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    with (
        ScriptedServer(told.answer) as server,
        gateway(
            tmp_path_factory.mktemp("gateway"), {"a10g": server.url}, keys=KEYS, patience=Patience(4.0, 4.0)
        ) as found,
    ):
        yield found
