"""The OpenAPI document tells the truth: whatever it allows is answered as it says, whatever it does not is refused."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from tests.support.ops_api import ADMIN_KEY, ops_api

KEY = {"x-api-key": ADMIN_KEY}
FEW = settings(max_examples=12, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The document as an administrator gets it, with the application behind it."""
    import schemathesis  # noqa: PLC0415 - a second, which no other worker of the suite has to spend

    with ops_api(tmp_path_factory.mktemp("document")) as api:
        config = schemathesis.Config.from_dict({"auth": {"openapi": {"HTTPBearer": {"bearer": ADMIN_KEY}}}})
        yield schemathesis.openapi.from_asgi("/ops/v1/openapi.json", api.app(), config=config, headers=KEY)


@pytest.mark.parametrize("mode", ["positive", "negative"])
def test_every_operation_does_what_the_document_says(schema: Any, mode: str) -> None:
    """Requests made from the document, right and wrong ones, never end in 500, and every answer is as described."""
    from schemathesis import GenerationMode  # noqa: PLC0415 - as above

    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()

        @FEW
        @given(case=operation.as_strategy(generation_mode=GenerationMode(mode)))
        def try_it(case: Any) -> None:
            case.call_and_validate()

        try:
            try_it()
        except BaseException as failure:
            failure.add_note(f"at {operation.label}, with {mode} data")
            raise
        tried += 1
    assert tried == 32
