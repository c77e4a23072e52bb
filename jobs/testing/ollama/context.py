"""A prompt that does not fit the simulated model: cut without a word, or refused, as Ollama does it.

See server/prompt.go (chatPrompt), server/routes.go (EmbedHandler) and llm/llama_server.go (completionPromptForRequest,
contextShiftPromptLimit). The refusal of a prompt that may not be cut is llama-server's own, passed on as a text.
"""

import json
from collections.abc import Sequence
from typing import Any

from jobs.testing.ollama.faults import SimError
from jobs.testing.ollama.go_formats import checked_options

Message = tuple[str, int]
"""Its role, and how many tokens it has."""

NUM_KEEP = 4


def prompt_length(messages: Sequence[Message], context: int, body: dict[str, Any]) -> int:
    """The tokens of a prompt that the model is given.

    Raises:
        SimError: there are too many, and `truncate` is false.

    """
    may_cut = body.get("truncate") is not False
    count = sum(size for _, size in (_that_fit(messages, context) if may_cut else messages))
    if count < context:
        return count
    if not may_cut:
        raise _too_long(count, context)
    keep = int(checked_options(body.get("options")).get("num_keep", NUM_KEEP))
    keep = min(keep, context - 1) if keep >= 0 else context - 1
    return context - max((context - keep) // 2, 1)


def embeddable(count: int, context: int, body: dict[str, Any]) -> int:
    """The tokens of a text that are embedded: its first ones.

    Raises:
        SimError: there are too many, and `truncate` is false.

    """
    if count > context and body.get("truncate") is False:
        raise SimError("the input length exceeds the context length", 400)
    return min(count, context)


def _that_fit(messages: Sequence[Message], context: int) -> Sequence[Message]:
    """Without the oldest ones, until they fit. What the system says and the last one always stay."""
    for at in range(len(messages)):
        left = [each for each in messages[:at] if each[0] == "system"] + list(messages[at:])
        if sum(size for _, size in left) <= context or at == len(messages) - 1:
            return left
    return messages


def _too_long(count: int, context: int) -> SimError:
    told = f"request ({count} tokens) exceeds the available context size ({context} tokens), try increasing it"
    said = {
        "code": 400,
        "message": told,
        "type": "exceed_context_size_error",
        "n_prompt_tokens": count,
        "n_ctx": context,
    }
    return SimError(json.dumps({"error": said}, separators=(",", ":")), 400)
