"""What Go makes of request bodies: a table that was recorded, and Go itself where it is there.

`python -m tests.support.go_answers` records the table anew.
"""

import base64
import hashlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.checkout import ROOT
from tests.support.waiting import PATIENCE

SOURCE = Path(__file__).resolve().parent / "go_reader" / "main.go"
TABLE = SOURCE.with_name("answers.json")

FORM = "multipart/form-data; boundary=B"


@dataclass(frozen=True)
class Case:
    """A body as it is sent to a path of one of these kinds."""

    kind: str
    body: bytes
    content_type: str = FORM

    def as_json(self) -> dict[str, str]:
        told = {"type": self.kind, "body": self.body.decode("latin-1")}
        return {**told, "content_type": self.content_type} if self.kind == "form" else told

    @classmethod
    def of(cls, told: dict[str, str]) -> "Case":
        return cls(told["type"], told["body"].encode("latin-1"), told.get("content_type", FORM))


def has_go() -> bool:
    return shutil.which("go") is not None


def reader() -> Path:
    """The program, built once for each version of its source and of Go."""
    version = subprocess.run(["go", "env", "GOVERSION"], capture_output=True, check=True).stdout
    name = hashlib.sha256(SOURCE.read_bytes() + version).hexdigest()[:16]
    program = ROOT / ".tools" / "go" / f"read-{name}"
    if not program.exists():
        program.parent.mkdir(parents=True, exist_ok=True)
        built = program.with_name(f"{program.name}.{os.getpid()}")
        own = {
            "GOCACHE": str(program.parent / "cache"),
            "CGO_ENABLED": "0",
            "GO111MODULE": "off",
            "GOTOOLCHAIN": "local",
        }
        subprocess.run(
            ["go", "build", "-o", str(built), str(SOURCE)], env={**os.environ, **own, "GOFLAGS": ""}, check=True
        )
        built.replace(program)
    return program


def asked(cases: Iterable[Case]) -> list[dict[str, Any]]:
    """What Go says of each."""
    lines = [
        json.dumps({"type": each.kind, "content_type": each.content_type, "body": base64.b64encode(each.body).decode()})
        for each in cases
    ]
    done = subprocess.run(
        [reader()], input="\n".join(lines).encode(), capture_output=True, check=True, timeout=PATIENCE
    )
    return [_told(json.loads(line)) for line in done.stdout.splitlines()]


def _told(said: dict[str, Any]) -> dict[str, Any]:
    """Without what it did not find; of an error it counts that it is one, for Go's words change."""
    if said.get("error"):
        return {"error": True}
    return {key: value for key, value in said.items() if value not in (None, "", {}) and (value or key in _SAID)}


_SAID = ("stream", "keep")
"""Where nothing is something."""


def recorded() -> list[tuple[Case, dict[str, Any]]]:
    """The table: each case, and what Go said of it when it was recorded."""
    return [(Case.of(row["case"]), row["go"]) for row in json.loads(TABLE.read_text())]


def record(cases: Sequence[Case]) -> None:
    rows = [json.dumps({"case": case.as_json(), "go": said}) for case, said in zip(cases, asked(cases), strict=True)]
    TABLE.write_text("[\n" + ",\n".join(rows) + "\n]\n")


# -- the cases ---------------------------------------------------------------------------------------------------------

A, B = '"deepseek-r1:32b"', '"llama3.2"'

TRICKS: Sequence[tuple[str, str | bytes]] = (
    # A name that is said twice, in one spelling or in several
    ("show", f'{{"model":{A},"model":null,"name":{B},"verbose":true}}'),
    ("show", f'{{"model":null,"name":{B},"name":{A}}}'),
    ("show", f'{{"name":{A},"Name":null}}'),
    ("show", f'{{"model":"","name":{B}}}'),
    ("show", f'{{"model":null,"name":{B}}}'),
    ("show", f'{{"model":0,"name":{B}}}'),
    ("show", f'{{"model":{B},"verbose":true,"verbose":null}}'),
    ("generate", f'{{"model":{B},"model":{A}}}'),
    ("generate", f'{{"model":{A},"model":null}}'),
    ("generate", f'{{"model":{A},"Model":null}}'),
    ("generate", f'{{"model":{A},"model":7}}'),
    ("generate", f'{{"MODEL":{A},"model":{B}}}'),
    ("generate", f'{{"\\u006dodel":{A},"model":{B}}}'),
    ("generate", f'{{"mod\\u0065l":{A}}}'),
    ("generate", f'{{"model\\u0000":{A},"model":{B}}}'),
    ("generate", f'{{"model ":{A},"model":{B}}}'),
    ("generate", f'{{"mode\\u217c":{A},"model":{B}}}'),
    ("generate", f'{{"model":{B},"\\ud800":{A},"\\udfff":{A}}}'),
    ("generate", f'{{"model":{B},"x":{{"model":{A}}}}}'),
    ("generate", f'{{"model":{B},"x":[{{"model":{A}}}]}}'),
    ("generate", f'{{"model":{B},"x":"\\",\\"model\\":\\"deepseek-r1:32b"}}'),
    ("generate", f'{{"model":{B},"x":"\\\\","model":{A}}}'),
    ("generate", f'{{"model":{B},"_debug_render_only":true,"_debug_render_only":null}}'),
    ("generate", f'{{"model":{B},"_debug_render_only":true,"_DEBUG_RENDER_ONLY":false}}'),
    ("generate", f'{{"model":{B},"_debug_render_only":true}}'),
    ("generate", f'{{"model":{B},"_debug_render_only":null}}'),
    ("generate", f'{{"model":{B},"_debug_render_only":1}}'),
    ("chat", f'{{"model":{B},"\u017ftream":false}}'),
    ("chat", f'{{"model":{B},"stream":true,"\u017ftream":false}}'),
    ("chat", f'{{"model":{B},"\\u017ftream":false}}'),
    ("chat", f'{{"model":{B},"\u212aeep_alive":0}}'),
    ("chat", f'{{"model":{B},"keep_alive":0,"\u212aEEP_ALIVE":null}}'),
    ("chat", f'{{"model":{B},"me\u00df\u0061ges":[{{"role":"user"}}]}}'),
    ("chat", f'{{"model":{B},"opt\u0130ons":{{"num_ctx":100000}}}}'),
    ("chat", f'{{"model":{B},"opt\u0131ons":{{"num_ctx":100000}}}}'),
    ("chat", f'{{"model":{B},"option\u017f":{{"num_ctx":100000}}}}'),
    # The context
    ("generate", f'{{"model":{A},"options":{{"num_ctx":100000}},"options":{{}}}}'),
    ("generate", f'{{"model":{A},"options":{{"num_ctx":100000}},"options":null}}'),
    ("generate", f'{{"model":{A},"options":{{"num_ctx":100000}},"OPTIONS":{{"num_ctx":null}}}}'),
    ("generate", f'{{"model":{A},"options":{{"num_ctx":100000,"num_ctx":null}}}}'),
    ("generate", f'{{"model":{A},"options":{{"num_ctx":1,"num_ctx":100000}}}}'),
    ("generate", f'{{"model":{A},"options":{{"NUM_CTX":100000}}}}'),
    ("generate", f'{{"model":{A},"options":{{"num_ctx":8192,"NUM_CTX":100000}}}}'),
    ("generate", f'{{"model":{A},"options":{{"num_\\u0063tx":100000}}}}'),
    ("generate", f'{{"model":{A},"options":{{"num_ctx":null,"num_gpu":null,"temperature":null,"seed":null}}}}'),
    *(
        ("chat", f'{{"model":{A},"options":{{"num_ctx":{number}}}}}')
        for number in (
            "1e5",
            "100000.0",
            "1E+5",
            "1000000e-1",
            "0.1e6",
            "100000.9",
            "-1",
            "-0.9",
            "0",
            "0e9",
            "1e300",
            "1e400",
            "9223372036854775808",
            "9" * 400,
            "100000" + "0" * 400 + "e-400",
            "2147483648",
            "2147483647",
            "01",
            "+1",
            ".5",
            "1.",
            "1e",
            "0x10",
            "NaN",
            "Infinity",
            "-Infinity",
            "true",
            '"100000"',
            "[100000]",
            "{}",
        )
    ),
    ("chat", f'{{"model":{A},"options":{{"use_mmap":true}}}}'),
    ("chat", f'{{"model":{A},"options":{{"use_mmap":"true"}}}}'),
    ("chat", f'{{"model":{A},"options":{{"use_mmap":1}}}}'),
    ("chat", f'{{"model":{A},"options":{{"num_thread":4.0,"main_gpu":0,"num_gpu":-1,"num_batch":512}}}}'),
    ("chat", f'{{"model":{A},"options":{{"x":{{"num_ctx":100000}}}}}}'),
    ("chat", f'{{"model":{A},"options":[{{"num_ctx":100000}}]}}'),
    ("chat", f'{{"model":{A},"options":[]}}'),
    ("chat", f'{{"model":{A},"options":""}}'),
    ("chat", f'{{"model":{A},"options":{{ }}}}'),
    ("openai", f'{{"model":{A},"options":{{"num_ctx":100000}},"stream":true}}'),
    ("openai", f'{{"model":{A},"stream":true,"stream":null}}'),
    ("openai", f'{{"model":{A},"stream":null}}'),
    ("openai", f'{{"model":{A},"keep_alive":0}}'),
    # How long it stays
    *(
        ("generate", f'{{"model":{B},"keep_alive":{keep}}}')
        for keep in (
            "0",
            "-0",
            "0.0",
            "0e5",
            "1e-10",
            "1e-9",
            "-1",
            "60",
            "59.9",
            "6e1",
            "null",
            "true",
            '""',
            '"0"',
            '"-0"',
            '"+0"',
            '"00"',
            '"0s"',
            '"0h0m"',
            '"0.1ns"',
            '"1ns"',
            '"60s"',
            '"59s"',
            '"1m"',
            '"-1m"',
            '"1h30m"',
            '"+1m"',
            '".5m"',
            '"1.m"',
            '"."',
            '"5"',
            '"1us"',
            '"1\u00b5s"',
            '"1\u03bcs"',
            '"1d"',
            '"1M"',
            '" 1m"',
            '"999999999h"',
            '"--1m"',
            '"60000ms"',
            "9e9",
            "9223372037",
            "1e10",
            "1e305",
            "-1e305",
            "-1e-10",
            '"2562047h"',
            '"2562048h"',
            f'"{"9" * 400}h"',
            "[]",
            "{}",
        )
    ),
    ("generate", f'{{"model":{B},"keep_alive":0,"prompt":"x"}}'),
    ("generate", f'{{"model":{B},"keep_alive":0,"prompt":""}}'),
    ("chat", f'{{"model":{B},"keep_alive":0,"messages":[]}}'),
    ("chat", f'{{"model":{B},"keep_alive":0,"messages":[{{"role":"user","content":"x"}}]}}'),
    # What is no text
    ("generate", '{"model":null}'),
    ("generate", '{"model":7}'),
    ("generate", '{"model":["llama3.2"]}'),
    ("generate", f'{{"model":{B},"stream":"x"}}'),
    ("generate", f'{{"model":{B},"stream":0}}'),
    # What is no JSON, and what comes behind it
    ("generate", ""),
    ("generate", " \t\r\n"),
    ("generate", "null"),
    ("generate", "[]"),
    ("generate", f'{{"model":{B}}} {{"model":{A}}}'),
    ("generate", f'{{"model":{B}}}x'),
    ("generate", f'{{"model":{B}}}\0'),
    ("generate", f'\ufeff{{"model":{B}}}'),
    ("generate", f'{{"model":{B},}}'),
    ("generate", f'{{"model":{B} "stream":true}}'),
    ("generate", f'{{"model":{B},"x":[1,]}}'),
    ("generate", f'{{"model":{B},"x":[,1]}}'),
    ("generate", f'{{"model":{B},"x":[1}}]}}'),
    ("generate", f"{{'model':{B}}}"),
    ("generate", f"{{model:{B}}}"),
    ("generate", f'{{"model":{B},"x":"\n"}}'),
    ("generate", f'{{"model":{B},"x":"\x7f"}}'),
    ("generate", f'{{"model":{B},"x":"\\x41"}}'),
    ("generate", f'{{"model":{B},"x":"\\u00g0"}}'),
    ("generate", f'{{"model":{B},"x":"\\u12"}}'),
    ("generate", f'{{"model":{B}/**/}}'),
    ("generate", f'\x0c{{"model":{B}}}'),
    ("generate", f'{{\u00a0"model":{B}}}'),
    ("generate", f'{{"model":{B},"x":tru}}'),
    ("generate", f'{{"model":{B},"x":nulll}}'),
    ("generate", b'{"model":"llama3.2","\xff":1,"\xfe":2}'),
    ("generate", b'{"model":"llama3.2\xff"}'),
    ("generate", b'{"model\xff":"deepseek-r1:32b","model":"llama3.2"}'),
    ("generate", '{"model":"llama3.2\\ud800"}'),
    ("generate", '{"model":"llama3.2\\u0000"}'),
    ("generate", '{"model":"\\u006clama3.2"}'),
    ("generate", f'{{"model":{B}}}'.encode("utf-16")),
    ("generate", f'{{"model":{B},"x":{"[" * 150}{"]" * 150}}}'),
    ("generate", f'{{"model":{B},"x":{"[" * 9000}{"]" * 9000}}}'),
    ("generate", f'{{"model":{B},"x":{"[" * 11000}{"]" * 11000}}}'),
)


def part(name: str, content: str, disposition: str = 'form-data; name="{}"', *more: str, end: str = "\r\n") -> str:
    head = [f"Content-Disposition: {disposition.format(name)}", *more]
    return "--B\r\n" + end.join([*head, "", content]) + "\r\n"


GOOD = part("model", "llama3.2")
HIDDEN = part("model", "deepseek-r1:32b", end="\n")
OTHER = part("file", "RIFF", 'form-data; name="{}"; filename="a.wav"', "Content-Type: audio/wav")
END = "--B--\r\n"

FORMS: Sequence[str | bytes] = (
    GOOD + END,
    OTHER + GOOD + END,
    GOOD + OTHER + "--B--",
    HIDDEN + END + GOOD + END,
    part("model", "llama3.2", 'attachment; name="{}"') + HIDDEN + END,
    part("model", "llama3.2", 'form-data; name="{}"; filename="a"') + HIDDEN + END,
    part("model", "llama3.2", 'form-data; name="{}"; filename=""') + HIDDEN + END,
    part("model", "llama3.2", 'form-data; name="{}"; name="x"') + HIDDEN + END,
    part("model", "llama3.2", 'form-data; name="x"; name="{}"') + HIDDEN + END,
    part("model", "llama3.2", 'form-data; name="{}"; x=y') + HIDDEN + END,
    part("model", "llama3.2", "form-data; name*=utf-8''{}") + GOOD + END,
    part("model", "deepseek-r1:32b", "form-data; name*=utf-8''{}") + GOOD + END,
    part("model", "deepseek-r1:32b", "form-data; name*0=mo; name*1=del") + GOOD + END,
    part("model", "deepseek-r1:32b", 'form-data; name="mo\\del"') + GOOD + END,
    part("model", "deepseek-r1:32b", 'form-data; name="\\model"') + GOOD + END,
    part("model", "deepseek-r1:32b", 'FORM-DATA; NAME="model"') + GOOD + END,
    part("model", "deepseek-r1:32b", 'form-data;\r\n name="model"') + GOOD + END,
    part("model", "deepseek-r1:32b", 'form-data ; name = "model"') + GOOD + END,
    part("model", "llama3.2", "form-data; name={}") + END,
    part("model", "llama3.2", 'form-data; name="{}"', "Content-Type: text/plain; charset=utf-8") + END,
    part("model", "llama3.2", 'form-data; name="{}"', "Content-Length: 8") + END,
    part("model", "llama3.2", 'form-data; name="{}"', "Content-Transfer-Encoding: 8bit") + END,
    part("model", "llama3=2E2", 'form-data; name="{}"', "Content-Transfer-Encoding: quoted-printable") + END,
    part("model", "llama3.2", 'form-data; name="{}"', "Content-Disposition: form-data; name=x") + HIDDEN + END,
    part("model", "llama3.2", 'form-data; name="{}"', "X: y") + HIDDEN + END,
    "--B\r\nX: y\r\n" + 'content-disposition: form-data; name="model"\r\n\r\nllama3.2\r\n' + END,
    '--B\r\ncontent-disposition: form-data; name="model"\r\n\r\nllama3.2\r\n' + END,
    '--B\r\nContent-Disposition:form-data; name="model"\r\n\r\nllama3.2\r\n' + END,
    '--B\r\nContent-Disposition : form-data; name="model"\r\n\r\nllama3.2\r\n' + END,
    '--B\r\n Content-Disposition: form-data; name="model"\r\n\r\nllama3.2\r\n' + END,
    "preamble\r\n" + GOOD + END,
    "\r\n" + GOOD + END,
    GOOD + END + GOOD + END,
    GOOD + END + "epilogue",
    GOOD + "--B-- \r\n",
    GOOD + "--B--x",
    GOOD + "--B-\r\n" + END,
    GOOD,
    GOOD + "--B\r\n",
    GOOD + GOOD + END,
    GOOD + HIDDEN + END,
    HIDDEN + GOOD + END,
    GOOD.replace("--B\r\n", "--B \r\n") + END,
    GOOD.replace("--B\r\n", "--B\t\r\n") + END,
    (GOOD + END).replace("\r\n", "\n"),
    (GOOD + END).replace("\r\n", "\r"),
    "--B\n" + GOOD.removeprefix("--B\r\n") + END,
    GOOD + "--Bx\r\n" + HIDDEN.removeprefix("--B\r\n") + END,
    GOOD + "\r\n" + END,
    part("file", "x\r\n--B") + GOOD + END,
    part("file", "x\r\n--Bmore") + GOOD + END,
    part("file", "x\n--B\n" + HIDDEN) + GOOD + END,
    part("file", "x\r\n --B\r\n" + HIDDEN) + GOOD + END,
    part("file", "--B\r\n" + HIDDEN) + GOOD + END,
    part("file", "") + GOOD + END,
    part("model", "") + END,
    '--B\r\nContent-Disposition: form-data; name="model"\r\n\r\n--B\r\n' + HIDDEN.removeprefix("--B\r\n") + END,
    '--B\r\nContent-Disposition: form-data; name="file"\r\n\r\n' + GOOD + END,
    "--B\r\n\r\nllama3.2\r\n" + GOOD + END,
    "--B\r\n--B\r\n" + GOOD.removeprefix("--B\r\n") + END,
    part("file", "RIFF", 'form-data; name="{}"; filename="a\\"; name=\\"model.wav"') + GOOD + END,
    part("file", "RIFF", 'form-data; name="{}"; filename="C:\\a\\b.wav"') + GOOD + END,
    part("file", "RIFF", 'form-data; name="{}"; filename="\u00e9.wav"') + GOOD + END,
    part("file", "RIFF", "form-data; name=\"{}\"; filename=a.wav; filename*=utf-8''%C3%A9.wav") + GOOD + END,
    part("file", "RIFF", 'form-data; name="{}"; filename="a.wav";') + GOOD + END,
    part("file", "RIFF", 'form-data; name="{}"; filename="a.wav') + GOOD + END,
    part("timestamp_granularities[]", "word") + GOOD + END,
    part("model ", "deepseek-r1:32b") + GOOD + END,
    part("MODEL", "deepseek-r1:32b") + GOOD + END,
    part("model\0", "deepseek-r1:32b") + GOOD + END,
    part("model", "llama3.2\0") + END,
    b'--B\r\nContent-Disposition: form-data; name="model"\r\n\r\nllama3.2\xff\r\n--B--\r\n',
    part("model", " llama3.2 ") + END,
    part("model", "llama3.2\r\n") + END,
    "".join(part(f"x{number}", "y") for number in range(60)) + GOOD + END,
)

TYPES = (
    'multipart/form-data; boundary="B"',
    "multipart/form-data;boundary=B",
    "Multipart/Form-Data; Boundary=B",
    "multipart/form-data; boundary=B; boundary=C",
    "multipart/form-data; boundary=C; boundary=B",
    "multipart/form-data; charset=utf-8; boundary=B",
    'multipart/form-data; boundary="\\B"',
    "multipart/form-data; boundary*=utf-8''B",
    "multipart/form-data; boundary=",
    "multipart/form-data",
    "multipart/mixed; boundary=B",
    "multipart/form-data, multipart/form-data; boundary=B",
    "multipart/form-data; boundary=B,C",
    "application/json",
)


def cases() -> list[Case]:
    return [
        *(Case(kind, body if isinstance(body, bytes) else body.encode()) for kind, body in TRICKS),
        *(Case("form", body if isinstance(body, bytes) else body.encode()) for body in FORMS),
        *(Case("form", (GOOD + END).encode(), content_type) for content_type in TYPES),
    ]


if __name__ == "__main__":
    record(cases())
