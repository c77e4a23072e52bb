"""Who asks for the tokens of a prompt before sending it is told why they are not counted, and nobody wakes for it."""

from pathlib import Path

import anthropic
import httpx
import pytest

from tests.support.dialects import whole_answer
from tests.support.gateways import gateway
from tests.support.scripted_server import ScriptedServer
from tests.support.waiting import PATIENCE


def test_they_are_not_counted_beforehand(tmp_path: Path) -> None:
    """Anthropic's own client gets one clear error, at once, and so does who asks in other words."""
    with ScriptedServer(whole_answer) as server, gateway(tmp_path, {"a10g": server.url}) as running:
        answers: list[int] = []
        with (
            httpx.Client(
                event_hooks={"response": [lambda each: answers.append(each.status_code)]}, timeout=PATIENCE
            ) as http,
            anthropic.Anthropic(base_url=running.url, api_key="none", max_retries=5, http_client=http) as client,
            pytest.raises(anthropic.APIStatusError, match="only a server with the model in memory counts tokens") as no,
        ):
            client.messages.count_tokens(model="llama3.2", messages=[{"role": "user", "content": "hello"}])
        assert no.value.status_code == 501
        assert answers == [501]
        for path in ("/api/tokenize", "/tokenize"):
            answer = httpx.post(running.url + path, json={"model": "llama3.2", "prompt": "hi"}, timeout=PATIENCE)
            assert (answer.status_code, answer.headers["x-should-retry"]) == (501, "false")
            assert "max_tokens" in str(answer.json()["error"])
        assert not server.asked
        assert running.composed.metrics.wakes() == 0
