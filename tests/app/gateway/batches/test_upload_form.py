"""The form of an upload, cut in whatever pieces, and what is none."""

import tracemalloc
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.gateway.batches.upload_form import MOST_PARTS, UploadForm
from app.gateway.protocol.errors import TooLarge
from jobs.core.errors import BadRequest

TYPE = b"multipart/form-data; boundary=cut"
MOST = 10_000_000


@dataclass
class Kept:
    """Takes the content of a file."""

    name: str = ""
    content: bytearray = field(default_factory=bytearray)
    pieces: int = 0

    def write(self, piece: bytes) -> None:
        self.content += piece
        self.pieces += 1


def read(body: bytes, step: int = 1 << 20, *, content_type: bytes = TYPE, most: int = MOST) -> tuple[Kept, UploadForm]:
    kept = Kept()

    def begin(name: str) -> Kept:
        kept.name = name
        return kept

    form = UploadForm(content_type, begin, most_bytes=most)
    for start in range(0, len(body), step):
        form.feed(body[start : start + step])
    form.need_end()
    return kept, form


def part(disposition: bytes, content: bytes, *lines: bytes) -> bytes:
    head = b"\r\n".join([b"Content-Disposition: form-data; " + disposition, *lines])
    return b"--cut\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


FILE = part(b'name="file"; filename="a.jsonl"', b"{}", b"Content-Type: application/octet-stream")
END = b"--cut--\r\n"


@given(
    content=st.binary(max_size=200).map(lambda text: text.replace(b"a", b"\r\n--cu").replace(b"b", b"--cut")),
    step=st.integers(1, 60),
    is_first=st.booleans(),
)
def test_the_file_is_handed_on_as_it_is(content: bytes, step: int, is_first: bool) -> None:
    """However the form is cut on its way, and whatever looks like its boundary, the file is the same bytes."""
    if b"\r\n--cut" in content or content.startswith(b"--cut"):
        content = content.replace(b"--cut", b"--cu_t")
    parts = [part(b'name="file"; filename="a.jsonl"', content), part(b'name="purpose"', b"batch")]
    kept, form = read(b"".join(parts if is_first else parts[::-1]) + END, step)
    assert bytes(kept.content) == content
    assert (kept.name, form.fields, form.size) == ("a.jsonl", {"purpose": "batch"}, len(content))


@pytest.mark.parametrize(
    ("said", "name"),
    [
        (b'filename="prompts.jsonl"', "prompts.jsonl"),
        (b'filename="../../etc/passwd"', "passwd"),
        (b'filename="C:\\\\users\\\\me\\\\a.jsonl"', "a.jsonl"),
        ('filename="nächte.jsonl"'.encode(), "nächte.jsonl"),
        (b'filename="\xff\xfe"', "\ufffd\ufffd"),
        (b'filename=""', "upload"),
        (b"", "upload"),
        (b'filename="' + b"a" * 1000 + b'"', "a" * 255 + "…"),
        ('filename="\u202egpj.exe"'.encode(), "\\u202egpj.exe"),
        (b'filename="a\x1b[31m"', "a\\x1b[31m"),
    ],
)
def test_a_name_is_one_that_can_be_shown(said: bytes, name: str) -> None:
    """A file's name is told without its folders, cut, and with nothing in it that does more than be seen."""
    kept, _ = read(part(b'name="file"' + (b"; " + said if said else b""), b"{}") + END)
    assert kept.name == name


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "ends before its last boundary"),
        (b"{}", "cannot be read"),
        (FILE, "ends before its last boundary"),
        (FILE + b"--cut", "ends before its last boundary"),
        (FILE + b"--cut-", "ends before its last boundary"),
        (END, "has no 'file'"),
        (part(b'name="purpose"', b"batch") + END, "has no 'file'"),
        (FILE + FILE + END, "more than one 'file'"),
        (part(b'name="a"', b"1") * 2 + END, "is there twice"),
        (part(b'name="a"', b"x" * 1025) + END, "more than 1,024 bytes"),
        (b"".join(part(b'name="a%d"' % n, b"") for n in range(MOST_PARTS + 1)) + END, "more than 32 parts"),
        (part(b"", b"x") + END, "has no name"),
        (part(b'name=""', b"x") + END, "has no name"),
        (b"--cut\r\nContent-Type: text/plain\r\n\r\nx\r\n" + END, "has no name"),
        (b"--cut\r\n\r\nx\r\n" + END, "has no name"),
        (b"--cut\r\n" + b"x: y\r\n" * 9 + b"\r\n\r\n" + END, "cannot be read"),
        (b"--cut\r\nContent-Disposition: form-data; name=" + b"a" * 5000 + b"\r\n\r\n" + END, "cannot be read"),
        (b"--cut\r\n" + b"x" * 100_000, "cannot be read"),
        (b"--cut\r\nx\x00y: z\r\n\r\n" + END, "cannot be read"),
        (b"--cut\nContent-Disposition: form-data; name=file\n\n{}\n--cut--\n", "cannot be read"),
    ],
)
@pytest.mark.parametrize("step", [1, 1 << 20])
def test_what_is_no_such_form_is_refused(body: bytes, said: str, step: int) -> None:
    """A form that is torn, has something twice or too much of it is refused; nothing of it is told."""
    with pytest.raises(BadRequest, match=said) as refusal:
        read(body, max(step, len(body) // 2000))
    assert len(str(refusal.value)) < 100


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_what_comes_behind_the_end_is_nobodys(step: int) -> None:
    """Whatever stands behind the last boundary is passed over, however it is cut."""
    kept, form = read(FILE + END + b"GET / HTTP/1.1\r\n" + FILE, step)
    assert (bytes(kept.content), form.fields) == (b"{}", {})


@pytest.mark.parametrize(
    "content_type",
    [
        b"",
        b"application/json",
        b"multipart/form-data",
        b"multipart/form-data; boundary=",
        b"multipart/mixed; boundary=cut",
        b"multipart/form-data; boundary=" + b"a" * 300,
        b"multipart/form-data; boundary=" + b"a" * 100_000,
    ],
)
def test_what_is_no_form_is_refused(content_type: bytes) -> None:
    """A body that says that it is something else, or names no boundary, is refused before a byte of it is read."""
    with pytest.raises(BadRequest):
        read(b"", content_type=content_type)


def test_a_boundary_may_be_quoted() -> None:
    """Whatever clients write for a boundary is taken."""
    kept, _ = read(FILE + END, content_type=b'Multipart/Form-Data; charset=utf-8; boundary="cut"')
    assert kept.content == b"{}"


def test_a_file_may_not_be_too_large() -> None:
    """A file with more bytes than it may have is refused as soon as they have come."""
    with pytest.raises(TooLarge, match="more than 1,000 bytes"):
        read(part(b'name="file"', b"x" * 2000), 100, most=1000)


def test_memory_is_that_of_a_piece() -> None:
    """Of a file of a hundred megabytes no more is kept than of a piece; so it is where all of it looks like an end."""
    size = 0

    @dataclass
    class Counting:
        def write(self, piece: bytes) -> None:
            nonlocal size
            size += len(piece)

    for piece in (b"x" * (1 << 20), b"\r\n--cu" * (1 << 18), b"\r" * (1 << 20)):
        form = UploadForm(TYPE, lambda _: Counting(), most_bytes=1 << 30)
        form.feed(part(b'name="file"', b"")[:-2])
        tracemalloc.start()
        try:
            for _ in range(20):
                form.feed(piece)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 4_000_000
    assert size > 50_000_000
