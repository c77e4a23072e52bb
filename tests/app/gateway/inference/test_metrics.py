"""What is counted, and under which labels."""

from dataclasses import replace

from app.gateway.inference.metrics import Metrics, Readings
from app.gateway.lines.line_gate import LineFigures
from tests.support.ops_api import ENDED_REQUEST


def meters() -> Metrics:
    return Metrics(lambda: ["alice"], ["a10g", "h100"], lambda name: name == "llama3.2:latest")


def shown(metrics: Metrics) -> list[str]:
    return metrics.render({}).decode().splitlines()


def test_a_request_is_counted_once_with_its_tokens_and_first_byte() -> None:
    """By model, tier, key and ending; the time to the first byte by tier."""
    metrics = meters()
    metrics.add(ENDED_REQUEST)
    lines = shown(metrics)
    labels = 'key="alice",kind="{kind}",model="llama3.2:latest",tier="a10g"'
    assert f"ollama_modal_tokens_total{{{labels.format(kind='prompt')}}} 7.0" in lines
    assert f"ollama_modal_tokens_total{{{labels.format(kind='output')}}} 40.0" in lines
    assert 'ollama_modal_first_byte_seconds_bucket{le="0.25",tier="a10g"} 0.0' in lines
    assert 'ollama_modal_first_byte_seconds_bucket{le="0.5",tier="a10g"} 1.0' in lines
    assert 'ollama_modal_first_byte_seconds_count{tier="a10g"} 1.0' in lines


def test_a_request_that_came_nowhere_is_counted_all_the_same() -> None:
    """Without model, tier, tokens or a first byte."""
    metrics = meters()
    nothing = replace(ENDED_REQUEST, prompt_tokens=None, output_tokens=None, first_byte_seconds=None)
    metrics.add(replace(nothing, key="", model="", tier="", ending="refused"))
    assert 'ollama_modal_requests_total{ending="refused",key="other",model="other",tier="other"} 1.0' in shown(metrics)


def test_wakes_are_counted_by_cause() -> None:
    """And are zero until somebody wakes a tier; a cause nobody foresaw is `other`."""
    metrics = meters()
    assert metrics.wakes() == 0
    metrics.woke("h100", "request")
    metrics.woke("h100", "the moon")
    assert metrics.wakes() == 2
    assert 'ollama_modal_wakes_total{cause="other",tier="h100"} 1.0' in shown(metrics)
    assert 'ollama_modal_wakes_total{cause="request",tier="a10g"} 0.0' in shown(metrics)


def test_what_is_not_known_is_not_shown() -> None:
    """A gauge that has no value yet is absent, which is no zero."""
    metrics = meters()
    metrics.watch(
        Readings(
            held=lambda: {"a10g": 3},
            weights_bytes=lambda: None,
            usage_dropped=lambda: 2,
            log_dropped=lambda: 3,
            known_state_seconds=lambda: None,
            detached=lambda: 0,
        )
    )
    lines = shown(metrics)
    assert 'ollama_modal_held_callers{tier="a10g"} 3.0' in lines
    assert "ollama_modal_usage_dropped_total 2.0" in lines
    assert "ollama_modal_log_lines_dropped_total 3.0" in lines
    assert not [line for line in lines if "weights_bytes" in line or "standing_age" in line]


def test_lines_of_batches_are_counted_by_themselves() -> None:
    """How many are in flight, how many wait, what became of the others; the times that people wait for the first byte
    are people's alone."""
    metrics = meters()
    metrics.add(replace(ENDED_REQUEST, batch="batch_1"))
    metrics.watch(
        Readings(
            held=dict,
            weights_bytes=lambda: None,
            usage_dropped=lambda: 0,
            log_dropped=lambda: 0,
            known_state_seconds=lambda: None,
            detached=lambda: 0,
            lines=lambda: {"a10g": LineFigures(3, 2, {"answered": 7, "cut": 0})},
        )
    )
    lines = shown(metrics)
    assert 'ollama_modal_batch_lines_in_flight{tier="a10g"} 3.0' in lines
    assert 'ollama_modal_batch_lines_waiting{tier="a10g"} 2.0' in lines
    assert 'ollama_modal_batch_lines_total{outcome="answered",tier="a10g"} 7.0' in lines
    assert 'ollama_modal_batch_lines_total{outcome="cut",tier="a10g"} 0.0' in lines
    assert any(line.startswith("ollama_modal_requests_total") and line.endswith(" 1.0") for line in lines)
    assert 'ollama_modal_first_byte_seconds_count{tier="a10g"} 0.0' in lines


def test_jobs_are_shown_as_they_are_now() -> None:
    """A state that no job is in any more is not shown with its old number."""
    metrics = meters()
    metrics.render({("pull", "queued"): 1})
    text = metrics.render({("pull", "succeeded"): 1}).decode()
    assert 'ollama_modal_jobs{kind="pull",state="succeeded"} 1.0' in text
    assert "queued" not in text
