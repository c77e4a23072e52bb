"""A gateway that answers, with nobody behind it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gateways import RunningGateway, gateway
from tests.support.processes import free_port


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningGateway]:
    with gateway(tmp_path, {"a10g": f"http://127.0.0.1:{free_port()}"}) as found:
        yield found
