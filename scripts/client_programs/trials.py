"""What the Python programs share: a trial is a function, run where it stands and told as a line of JSON."""

import json
import os
from collections.abc import Callable

URL, KEY = os.environ["URL"], os.environ["KEY"] or "none"
MODEL, THINKER, EMBEDDER, SMALL = (os.environ[name] for name in ("MODEL", "THINKER", "EMBEDDER", "SMALL"))

HELLO = [{"role": "user", "content": "Hello"}]
ASKS_FOR_WEATHER = [{"role": "user", "content": "What is the weather in Paris? Call get_weather."}]
GET_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


def trial(run: Callable[[], object]) -> None:
    """Run it; what goes wrong is told in one line, and the next trial comes."""
    failed = None
    try:
        run()
    except Exception as error:  # noqa: BLE001 - whatever a client raises is what was asked
        told = " ".join(str(error).split()) or "no words"
        failed = f"{type(error).__name__}: {told}"[:300]
    print(json.dumps({"tried": run.__name__.replace("_", " "), "failed": failed}), flush=True)
