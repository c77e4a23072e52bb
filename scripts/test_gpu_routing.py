#!/usr/bin/env -S uv run --script
# /// script
# requires-python = ">=3.11"
# dependencies = ["httpx>=0.28,<1", "llamabot>=0.17,<1"]
# ///
"""Asks a gateway for a model of each GPU tier through llamabot, and checks which tier answered.

    uv run scripts/test_gpu_routing.py --url https://GATEWAY --key omk_…

That an answer came proves little: any tier could have given it. So each model is asked for twice. Through llamabot
(LiteLLM's `ollama_chat/` underneath), where the gateway's own usage must show one success more on the expected tier and
none on any other; and plainly, where the answer's `x-served-tier` and `x-served-model` must say so too. It knows a URL
and nothing of the service's code. It wakes both tiers. Exit codes: 0 all as expected, 1 something is not, 2 a wrong
call.
"""

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx

EXPECTED = ("llama3.2=a10g", "deepseek-r1:32b=h100")
COLD_START_SECONDS = 1500.0
"""The slowest tier's start, with a wait for a GPU."""
COUNTED_SECONDS = 30.0
"""Uses are written down every few seconds."""


class Wrong(Exception):
    """The gateway did not do what was expected of it."""


def ask_with_llamabot(url: str, key: str | None, model: str) -> str:
    """One question, as a user of llamabot asks it."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # no list of prices is fetched
    import llamabot  # noqa: PLC0415 - reads the environment as it is imported, and only the fresh environment has it

    bot = llamabot.SimpleBot(
        "You answer in one word.",
        model_name=f"ollama_chat/{model}",
        stream_target="none",
        api_base=url,
        api_key=key,
        timeout=COLD_START_SECONDS,
    )
    said = str(bot("What colour is the sky?").content)
    if not said.strip():
        raise Wrong(f"{model}: llamabot got an empty answer")
    return said


def served(client: httpx.Client, model: str) -> Counter[str]:
    """Successes of a model by tier, as the gateway has counted them."""
    answer = client.get("/ops/v1/usage")
    answer.raise_for_status()
    successes: Counter[str] = Counter()
    for row in answer.json()["usage"]:
        if row["ending"] == "success" and short(row["model"]) == short(model):
            successes[row["tier"]] += row["count"]
    return successes


def short(model: str) -> str:
    """A missing tag is `latest`."""
    return model.lower().removesuffix(":latest")


def check_usage(client: httpx.Client, model: str, tier: str, before: Counter[str]) -> None:
    """One success more on the tier, and nowhere else."""
    until = time.monotonic() + COUNTED_SECONDS
    grown: Counter[str] = Counter()
    while not grown and time.monotonic() < until:
        grown = served(client, model) - before
        time.sleep(0.5)
    if grown != Counter({tier: 1}):
        raise Wrong(f"{model}: expected one more success on {tier}; the usage shows {dict(grown) or 'none'}")


def check_headers(client: httpx.Client, model: str, tier: str) -> None:
    """The answer itself says who gave it."""
    question = {"model": model, "stream": False, "messages": [{"role": "user", "content": "Say yes."}]}
    answer = client.post("/api/chat", json=question)
    answer.raise_for_status()
    if not answer.json().get("done"):
        raise Wrong(f"{model}: the answer has no end")
    said = answer.headers.get("x-served-tier"), short(answer.headers.get("x-served-model", ""))
    if said != (tier, short(model)):
        raise Wrong(f"{model}: expected tier {tier}; the answer's headers say {said[0]}, model {said[1]}")


def check(url: str, key: str | None, model: str, tier: str) -> None:
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with httpx.Client(base_url=url, headers=headers, timeout=COLD_START_SECONDS) as client:
        before = served(client, model)
        said = ask_with_llamabot(url, key, model)
        check_usage(client, model, tier, before)
        check_headers(client, model, tier)
    print(f"ok    {model} was answered by {tier}: {said[:60]!r}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default=os.environ.get("OLLAMA_MODAL_URL"), help="else OLLAMA_MODAL_URL")
    parser.add_argument("--key", default=os.environ.get("OLLAMA_MODAL_KEY"), help="else OLLAMA_MODAL_KEY")
    parser.add_argument("--expect", action="append", metavar="MODEL=TIER", help=f"default: {' '.join(EXPECTED)}")
    asked = parser.parse_args()
    if not asked.url:
        parser.error("no gateway is named: give --url, or set OLLAMA_MODAL_URL")
    wrong = 0
    for each in asked.expect or EXPECTED:
        model, equals, tier = each.rpartition("=")
        if not equals:
            parser.error(f"{each!r} is not MODEL=TIER")
        try:
            check(asked.url.rstrip("/"), asked.key, model, tier)
        except Wrong as problem:
            wrong += 1
            print(f"WRONG {problem}")
        except Exception as error:  # noqa: BLE001 - litellm raises many kinds; each means that this model failed
            wrong += 1
            print(f"WRONG {model}: {type(error).__name__}: {error}")
    return 1 if wrong else 0


if __name__ == "__main__":
    # llamabot keeps a log of messages under HOME; what is said here is not worth keeping.
    with tempfile.TemporaryDirectory(prefix="gpu-routing-") as scratch:
        os.environ["HOME"] = scratch
        os.chdir(Path(scratch))
        sys.exit(main())
