"""Prometheus: its parser for Python reads /metrics, and `promtool` lints it where it is on PATH."""

import shutil
import subprocess
import urllib.request

from prometheus_client.parser import text_string_to_metric_families
from trials import KEY, URL, trial

asked = urllib.request.Request(f"{URL}/metrics", headers={"Authorization": f"Bearer {KEY}"})  # noqa: S310
with urllib.request.urlopen(asked) as answer:  # noqa: S310 - the address is the operator's
    TEXT = answer.read()


@trial
def parse() -> None:
    assert any(family.name.startswith("ollama_modal") for family in text_string_to_metric_families(TEXT.decode()))


if promtool := shutil.which("promtool"):

    @trial
    def promtool_check_metrics() -> None:
        done = subprocess.run([promtool, "check", "metrics"], input=TEXT, capture_output=True, check=False)
        if done.returncode or done.stderr.strip():
            raise RuntimeError((done.stderr or done.stdout).decode())
