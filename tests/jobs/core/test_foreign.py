"""Text and JSON from outside, and the readers of templates and headers: all is read or refused at once."""

import io
import json
import math
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.core import foreign
from jobs.core.errors import Corrupt
from jobs.models import gguf
from jobs.models import go_template as go_templates
from jobs.testing.gguf import encoded
from jobs.weights.manifest import Manifest

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(), max_size=5), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(ANYTHING)
def test_what_is_read_can_be_written(value: Any) -> None:
    """Any document comes out as it went in, but for halves of characters and what is no number."""
    raw = json.dumps(value).encode()
    found = foreign.document(raw, "it")
    for encoding in ("utf-8", "utf-16", "utf-32"):  # in which a half may stand as it is
        as_it_is = json.dumps(value, ensure_ascii=False).encode(encoding, "surrogatepass")
        json.dumps(foreign.document(as_it_is, "it"), allow_nan=False, ensure_ascii=False).encode()
    assert json.dumps(found, allow_nan=False, ensure_ascii=False).encode().decode() is not None
    if "\\ud" not in raw.decode() and "NaN" not in raw.decode() and "Infinity" not in raw.decode():
        assert found == json.loads(raw)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (b'"\\ud800"', "\ufffd"),
        (b'["a\\udfffb",{"\\ud800":"\\ud83d\\ude00"}]', ["a\ufffdb", {"\ufffd": "\U0001f600"}]),
        (b"[NaN,Infinity,-Infinity,1e999,1e3]", [None, None, None, None, 1000.0]),
        (b"7", 7),
    ],
)
def test_halves_and_what_is_no_number(raw: bytes, found: Any) -> None:
    """Half a character is a replacement character, and what is no number is null; a whole pair is its character."""
    assert foreign.document(raw, "it") == found
    with pytest.raises(Corrupt, match="is no number"):
        foreign.document(b"[NaN]", "it", is_strict=True)
    with pytest.raises(Corrupt, match="is no number"):
        foreign.document(b"[1e999]", "it", is_strict=True)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"[" * 100_000, "too deep"),
        (b"[" * 40 + b"]" * 40, "too deep"),
        (b"[" + b"[]," * foreign.MOST_PIECES + b"[]]", "values"),
        (b'{"a":' * 2_000 + b"1" + b"}" * 2_000, "too deep"),
        (b"9" * 5_000, "torn or no JSON"),
        (b"\xff", "torn or no JSON"),
        (b"{", "torn or no JSON"),
    ],
)
def test_too_much_is_refused_by_name(raw: bytes, says: str) -> None:
    """What is too deep, too littered, or no JSON says which, and of what."""
    with pytest.raises(Corrupt, match=f"it .*{says}"):
        foreign.document(raw, "it")


# -- templates ---------------------------------------------------------------------------------------------------------


REFUSED = [
    ("{{", "an action is never closed"),
    ("{{ .A", "an action is never closed"),
    ("{{ .A }", "an action is never closed"),
    ('{{ "}}', "a quotation is never closed"),
    ('{{ "a\n" }}', "a quotation is never closed"),
    ("{{ don't }}", "a quotation is never closed"),
    ("{{ `a }}", "a quotation is never closed"),
    ("{{/* a }}", "a comment is never closed"),
    ("{{/* a */ .B }}", "a comment is never closed"),
    ("{{if .A}}", "1 blocks are never ended"),
    ("{{range .A}}{{with .B}}{{end}}", "1 blocks are never ended"),
    ("{{end}}", "an 'end' has no block"),
    ("{{else}}", "an 'else' has no block"),
    ("{{if .A}}{{end}}{{- end -}}", "an 'end' has no block"),
]
TAKEN = [
    "",
    "}}",
    "{ { } }",
    '{{ "}}" }}',
    "{{ `a\n}}` }}",
    "{{/* }} {{ if */}}",
    "{{- /* a */ -}}",
    "{{if.A}}{{end}}",
    "{{if (eq .A 1)}}{{else if .B}}{{else}}{{end}}",
    "{{ range $i, $m := .A -}}{{ break }}{{- end }}",
    '{{ define "end" }}{{ end }}{{ template "end" }}',
    '{{ block "a" . }}{{end}}',
    "{{ .end }}",
]


@pytest.mark.parametrize(("template", "wrong"), [*REFUSED, *((each, "") for each in TAKEN)])
def test_what_go_refuses_for_certain(template: str, wrong: str) -> None:
    """Recorded from Go 1.26's text/template: what is said to be wrong it refuses, what is not it may take."""
    assert go_templates.read(template).wrong == wrong


# -- headers and manifests ---------------------------------------------------------------------------------------------


def test_arrays_have_a_total() -> None:
    """Arrays are kept while they fit together, and passed over after that; what follows them is read all the same."""
    each = [7] * gguf.MAX_KEPT_ELEMENTS
    values = {str(number): each for number in range(40)}
    read = gguf.parse(io.BytesIO(raw := encoded({**values, "last": 7})), len(raw)).values
    kept = [value for value in read.values() if isinstance(value, tuple)]
    assert sum(map(len, kept)) == gguf.MAX_ARRAYS_ELEMENTS
    assert read["39"] == gguf.Elided(len(each))
    assert read["last"] == 7


@pytest.mark.parametrize("count", [2**63, 2**64 - 1, 16_385])
def test_absurd_counts_are_refused_unread(count: int) -> None:
    """Keys and tensors beyond what makes sense are refused by their number."""
    for raw in (struct.pack("<IQQ", 3, count, 0), struct.pack("<IQQ", 3, 0, count)):
        with pytest.raises(Corrupt, match="the most that makes sense"):
            gguf.parse(io.BytesIO(b"GGUF" + raw), 4 + len(raw))


def test_a_name_of_an_architecture_is_a_name() -> None:
    """A megabyte in its place is none: it is written down with each job."""
    raw = encoded({"general.architecture": "x" * 1_000})
    assert gguf.MemoryFacts.of(gguf.parse(io.BytesIO(raw), len(raw))).architecture == ""


def manifest(*layers: dict[str, Any]) -> bytes:
    entry = {"mediaType": "m", "digest": f"sha256:{'a' * 64}", "size": 1}
    return json.dumps({"schemaVersion": 2, "config": entry, "layers": layers}).encode()


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        ([{"mediaType": "x" * 300, "digest": f"sha256:{'b' * 64}", "size": 1}], "not a short text"),
        ([{"mediaType": "m", "digest": f"sha256:{'b' * 64}", "size": -1}], "not a number of bytes"),
        ([{"mediaType": "m", "digest": f"sha256:{'b' * 64}", "size": 2**63}], "not a number of bytes"),
        ([{"mediaType": "m", "digest": f"sha256:{'b' * 64}", "size": 1.0}], "not a number of bytes"),
        (
            [{"mediaType": "m", "digest": f"sha256:{each * 64}", "size": 2**62} for each in "bcd"],
            "more than can be counted",
        ),
    ],
)
def test_a_manifest_counts_in_numbers_that_can_be(layers: list[dict[str, Any]], says: str) -> None:
    """Sizes are whole, not negative, and can be summed in what Ollama sums them in."""
    with pytest.raises(Corrupt, match=says):
        Manifest.parse(manifest(*layers))


def test_layers_share_the_names_of_their_kinds() -> None:
    """Twenty thousand layers of one kind hold its name once."""
    layers = [{"mediaType": "kind", "digest": f"sha256:{each:064x}", "size": 1} for each in range(50)]
    read = Manifest.parse(manifest(*layers))
    assert len({id(layer.media_type) for layer in read.layers}) == 1
    assert math.isfinite(read.size)
