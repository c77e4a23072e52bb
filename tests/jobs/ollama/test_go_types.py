"""Promises of jobs.ollama.go_types beside those that bodies of requests are held to in tests/doubles."""

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from jobs.ollama.go_types import CUT, base64_fault

PROGRAM = """package main

import (
	"encoding/base64"
	"encoding/json"
	"os"
)

func main() {
	var texts, faults []string
	json.NewDecoder(os.Stdin).Decode(&texts)
	for _, text := range texts {
		fault := ""
		if _, err := base64.StdEncoding.DecodeString(text); err != nil {
			fault = err.Error()
		}
		faults = append(faults, fault)
	}
	json.NewEncoder(os.Stdout).Encode(faults)
}
"""

RECORDED = {
    "": "",
    "aGVsbG8=": "",
    "aGVs\r\nbG8=\n": "",
    "aGVsbG9=": "",
    "aGVsbG8": "illegal base64 data at input byte 4",
    "aGVsbG8==": "illegal base64 data at input byte 8",
    "aGVsbG8=aGVs": "illegal base64 data at input byte 8",
    "aG=sbG8=": "illegal base64 data at input byte 2",
    "aGVsb-_=": "illegal base64 data at input byte 5",
    "====": "illegal base64 data at input byte 0",
    "data:image/png;base64,aGVsbG8=": "illegal base64 data at input byte 4",
    "aGVs\u00e9": "illegal base64 data at input byte 4",
}


@pytest.mark.parametrize(("text", "fault"), RECORDED.items())
def test_base64_is_read_as_go_reads_it(text: str, fault: str) -> None:
    """What was recorded of Go: line ends are passed over, padding has to be whole, and nothing comes behind it."""
    assert base64_fault(text) == fault


def test_of_a_text_that_was_cut_nothing_is_said() -> None:
    """Its end is not here."""
    assert base64_fault(f"@@@{CUT}") == ""


@pytest.mark.skipif(shutil.which("go") is None, reason="go is not here; the table above was recorded with it")
def test_base64_is_what_go_says_of_it(tmp_path: Path) -> None:
    """Of thousands of short texts, most of them wrong, Go itself says the same, to the byte."""
    draw = random.Random(7)
    texts = ["".join(draw.choice("aZ+/==\n\r-@") for _ in range(draw.randrange(11))) for _ in range(4000)]
    program = tmp_path / "main.go"
    program.write_text(PROGRAM)
    done = subprocess.run(
        ["go", "run", str(program)], input=json.dumps(texts), capture_output=True, text=True, check=True
    )
    assert [base64_fault(text) for text in texts] == json.loads(done.stdout)
