"""Where a device reads from: buffers, file objects and forks, and what servers and URLs may hold."""

from __future__ import annotations

import array
import base64
import gzip
import io
import mmap
import multiprocessing
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import Server
from tables import LAYOUTS, draw_table

from peel_ext.cli.main import main
from peel_ext.device import DeviceRecommender, PersonalizedElasticEmbedding, http_source
from peel_ext.errors import FormatError, SourceError
from peel_ext.format import unpack_embedding, write_file

pytestmark = pytest.mark.once

ROWS, DIM = 600, 16
NAMES = [f"item {row:03}" for row in range(ROWS)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    table = draw_table(LAYOUTS[0], np.random.default_rng(0), ROWS, DIM)
    write_file(tmp_path / "a.peel", table, item_ids=NAMES)
    return tmp_path / "a.peel"


def best(source: Any, **options: Any) -> list[int | str]:
    with DeviceRecommender.open(source, **options) as recommender:
        return list(recommender.recommend(user=np.ones(DIM), n=5)[0])


# ---- buffers ----


def mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.read_bytes(),
        lambda path: bytearray(path.read_bytes()),
        lambda path: memoryview(path.read_bytes()),
        lambda path: memoryview(b"x" + path.read_bytes())[1:],  # not aligned
        lambda path: array.array("B", path.read_bytes()),
        lambda path: array.array("Q", path.read_bytes()),
        mapped,
        lambda path: np.frombuffer(path.read_bytes(), np.uint8),
        lambda path: np.frombuffer(path.read_bytes(), np.float32).reshape(-1, 4),
        lambda path: np.memmap(path, np.uint8, "r"),
    ],
)
def test_whatever_has_the_buffer_protocol_is_a_source(
    make: Callable[[Path], Any], path: Path
) -> None:
    assert best(make(path)) == best(path)
    pee = PersonalizedElasticEmbedding(make(path))
    assert pee.nbytes == unpack_embedding(make(path)).nbytes


def test_a_buffer_is_used_where_it_lies(path: Path) -> None:
    data = np.fromfile(path, np.uint64)
    with DeviceRecommender.open(data) as recommender:
        before = recommender.recommend(user=np.ones(DIM))[1]
        data[30:1000] = 0  # against what is documented, to see that there is no copy
        assert not np.array_equal(recommender.recommend(user=np.ones(DIM))[1], before)


def test_sources_that_are_none_are_named_shortly(path: Path) -> None:
    data = path.read_bytes()
    wide = np.frombuffer(data, np.uint8)[::2]
    with pytest.raises(ValueError, match=r"bytes must lie one after another, got a ndarray"):
        DeviceRecommender.open(wide)
    with pytest.raises(ValueError, match=r"bytes must lie one after another, got a ndarray"):
        DeviceRecommender.open(np.array([{}, ()], dtype=object))
    for wrong in (list(data), tuple(data), 7, None, {"a": data}):
        with pytest.raises(SourceError, match="cannot seek") as caught:
            DeviceRecommender.open(wrong)  # type: ignore[arg-type]
        assert len(str(caught.value)) < 300
    for empty in (b"", bytearray(), np.zeros(0, np.uint8)):
        with pytest.raises(FormatError, match=r"not a \.peel file"):
            DeviceRecommender.open(empty)
    with path.open(encoding="latin-1") as text, pytest.raises(SourceError, match="it gives str"):
        DeviceRecommender.open(text)  # type: ignore[arg-type]


# ---- file objects ----


def test_file_objects(path: Path, tmp_path: Path) -> None:
    want = best(path)
    with gzip.open(tmp_path / "a.gz", "wb") as packed:
        packed.write(path.read_bytes())
    with (
        path.open("rb") as buffered,
        path.open("rb", buffering=0) as raw,
        path.open("r+b") as changeable,
        gzip.open(tmp_path / "a.gz", "rb") as unpacked,
        io.BufferedReader(gzip.open(tmp_path / "a.gz", "rb")) as again,  # type: ignore[type-var]
        tempfile.TemporaryFile() as temporary,
        tempfile.SpooledTemporaryFile() as spooled,
    ):
        temporary.write(path.read_bytes())
        spooled.write(path.read_bytes())
        for file in (buffered, raw, changeable, unpacked, again, temporary, spooled):
            assert best(file) == want


def test_a_file_that_its_owner_closed_is_reported(path: Path) -> None:
    file = path.open("rb")
    recommender = DeviceRecommender.open(file, 5_000)
    file.close()
    with pytest.raises(SourceError, match="closed file"):
        recommender.resize(9_000)


def ask_often(recommender: DeviceRecommender, want: list[list[Any]], answers: Any) -> None:
    wrong, errors = 0, set()
    for _ in range(30):
        for seed, expected in enumerate(want):
            user = np.random.default_rng(seed).normal(size=DIM)
            try:
                wrong += list(recommender.recommend(user=user)[0]) != expected
            except Exception as error:
                errors.add(f"{type(error).__name__}: {error}")
    answers.put((wrong, errors))


def ask_in_forks(recommender: DeviceRecommender, path: Path) -> list[tuple[int, set[str]]]:
    """Wrong lists and errors of four forked processes that ask at once."""
    users = [np.random.default_rng(seed).normal(size=DIM) for seed in range(10)]
    with DeviceRecommender.open(path) as plain:
        want = [list(plain.recommend(user=user)[0]) for user in users]
    context = multiprocessing.get_context("fork")
    answers = context.Queue()
    arguments = (recommender, want, answers)
    processes = [context.Process(target=ask_often, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    found = [answers.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    return found


@pytest.mark.parametrize("buffering", [0, -1])
def test_forks_read_a_file_object_without_its_position(buffering: int, path: Path) -> None:
    with path.open("rb", buffering=buffering) as file:
        recommender = DeviceRecommender.open(file)
        recommender.recommend(user=np.ones(DIM))
        assert ask_in_forks(recommender, path) == [(0, set())] * 4


def test_what_has_one_position_for_all_is_refused_in_a_fork(path: Path, tmp_path: Path) -> None:
    with gzip.open(tmp_path / "a.gz", "wb") as packed:
        packed.write(path.read_bytes())
    with gzip.open(tmp_path / "a.gz", "rb") as file:
        recommender = DeviceRecommender.open(file)
        recommender.recommend(user=np.ones(DIM))
        for wrong, errors in ask_in_forks(recommender, path):
            assert wrong == 0
            assert len(errors) == 1
            assert "SourceError" in (told := errors.pop())
            assert "cannot be read in a forked process" in told
        assert list(recommender.recommend(user=np.ones(DIM), n=5)[0]) == best(path)


def grow(recommender: DeviceRecommender, answers: Any) -> None:
    try:
        for budget in (5_000, 14_000, 6_000, None):
            recommender.resize(budget)
        answers.put(list(recommender.recommend(user=np.ones(DIM), n=5)[0]))
        recommender.close()
    except BaseException as error:
        answers.put(error)


def test_a_cache_stays_that_of_the_first_process(path: Path, tmp_path: Path) -> None:
    server, cache = Server(path.read_bytes()), tmp_path / "cache.peel"
    context = multiprocessing.get_context("fork")
    with DeviceRecommender.open(server.url, 9_000, cache=cache) as recommender:
        held = cache.read_bytes()
        answers = context.Queue()
        process = context.Process(target=grow, args=(recommender, answers))
        process.start()
        assert answers.get(timeout=60) == best(path)
        process.join()
        assert cache.read_bytes() == held
        with pytest.raises(SourceError, match="it is in use as one"):  # still
            DeviceRecommender.open(server.url, 5_000, cache=cache)
        recommender.resize(None)
        assert path.read_bytes().startswith(cache.read_bytes())
    server.close()


# ---- servers ----


class OddServer:
    """A server that answers as it is told: ``answer(handler, body, first, last)`` for each request."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.seen: list[dict[str, str]] = []
        self.answer: Callable[..., None] = plain
        owner = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.seen.append({name.lower(): value for name, value in self.headers.items()})
                first, last = (int(part) for part in self.headers["Range"][6:].split("-"))
                owner.answer(self, owner.data[first : last + 1], first, len(owner.data))

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/a.peel"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def plain(
    handler: Any, body: bytes, first: int, size: object, unit: str = "bytes", **headers: str
) -> None:
    handler.send_response(206)
    handler.send_header("CONTENT-RANGE", f"{unit} {first}-{first + len(body) - 1}/{size}")
    handler.send_header("content-length", str(len(body)))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def odd(path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[OddServer]:
    monkeypatch.setattr(http_source, "_WAITS", (0.01, 0.02))
    server = OddServer(path.read_bytes())
    yield server
    server.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (lambda h, b, f, s: plain(h, b, f, "9" * 26), "Content-Range 'bytes 0-63/9999"),
        (lambda h, b, f, s: plain(h, b, f, 1 << 63), "does not say what was sent"),
        (lambda h, b, f, s: plain(h, b, f, "²"), "does not say what was sent"),
        (lambda h, b, f, s: plain(h, b, f, "*"), "does not say what was sent"),
        (lambda h, b, f, s: plain(h, b, f, "-5"), "does not say what was sent"),
        (lambda h, b, f, s: plain(h, b, f, "0"), "does not say what was sent"),
        (lambda h, b, f, s: plain(h, b, f + 1, s), "does not say what was sent"),
        (lambda h, b, f, s: plain(h, b, f, s, "rows"), "does not say what was sent"),
        (
            lambda h, b, f, s: plain(h, gzip.compress(b), f, s, Content_Encoding="gzip"),
            "Content-Encoding 'gzip'",
        ),
        (lambda h, b, f, s: plain(h, b[:-1], f, s), "63 bytes came, expected 64"),
        (lambda h, b, f, s: h.send_error(503), "the server answers 503"),
        (lambda h, b, f, s: h.send_error(403), "the server answers 403"),
        (lambda h, b, f, s: h.wfile.write(b"rubbish\r\n\r\n"), "cannot be read"),
        (lambda h, b, f, s: None, "cannot be read"),
    ],
)
def test_whatever_a_server_answers_is_a_source_error(
    answer: Callable[..., None], says: str, odd: OddServer
) -> None:
    odd.answer = answer
    with pytest.raises(SourceError) as caught:
        DeviceRecommender.open(odd.url)
    assert type(caught.value) is SourceError
    assert says in str(caught.value)
    assert len(odd.seen) == (3 if says.endswith(("503", "expected 64", "be read")) else 1)


def test_units_encodings_and_schemes_in_any_letters(odd: OddServer, path: Path) -> None:
    want = best(path)
    odd.answer = lambda h, b, f, s: plain(h, b, f, s, "Bytes", Content_Encoding="Identity")
    for url in (odd.url, odd.url.replace("http", "HTTP"), odd.url.replace("http", "Http")):
        assert best(url) == want
    assert {request["accept-encoding"] for request in odd.seen} == {"identity"}


def break_off(handler: Any, body: bytes, first: int, size: int) -> None:
    handler.send_response(206)
    handler.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body[: len(body) // 2])


@pytest.mark.parametrize("fail", [lambda h, b, f, s: h.send_error(503), break_off])
def test_a_failure_that_passes_is_tried_again(
    fail: Callable[..., None], odd: OddServer, path: Path
) -> None:
    def answer(handler: Any, body: bytes, first: int, size: int) -> None:
        (fail if len(odd.seen) % 3 else plain)(handler, body, first, size)

    odd.answer = answer
    assert best(odd.url) == best(path)
    assert len(odd.seen) % 3 == 0


def test_between_attempts_there_is_a_wait(odd: OddServer, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(http_source, "_WAITS", (0.2, 1.0))
    monkeypatch.setattr(time, "sleep", waited.append)
    odd.answer = lambda h, b, f, s: h.send_error(502)
    with pytest.raises(SourceError, match="answers 502"):
        DeviceRecommender.open(odd.url)
    assert waited == [0.2, 1.0]


def test_a_server_that_does_not_answer_is_not_waited_for(odd: OddServer) -> None:
    release = threading.Event()
    odd.answer = lambda *_: release.wait(20)
    began = time.monotonic()
    with pytest.raises(SourceError, match="timed out"):
        DeviceRecommender.open(odd.url, timeout=0.2)
    assert time.monotonic() - began < 5
    release.set()


def redirect(to: str) -> Callable[..., None]:
    def answer(handler: Any, *_: object) -> None:
        handler.send_response(302)
        handler.send_header("Location", to)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return answer


def test_redirections_lose_the_headers_on_the_way_to_another_server(
    odd: OddServer, path: Path
) -> None:
    other = OddServer(path.read_bytes())
    headers = {"X-Key": "secret", "Authorization": "Bearer secret", "Cookie": "secret"}
    odd.answer = redirect(other.url)
    assert best(odd.url, headers=headers) == best(path)
    assert {request["x-key"] for request in odd.seen} == {"secret"}
    assert all(request["range"] for request in other.seen)
    assert "secret" not in str(other.seen)
    other.close()

    def here(handler: Any, body: bytes, first: int, size: int) -> None:
        ask = plain if handler.path == "/moved" else redirect("/moved")
        ask(handler, body, first, size)

    odd.answer = here
    odd.seen.clear()
    assert best(odd.url, headers=headers) == best(path)
    assert {request["x-key"] for request in odd.seen} == {"secret"}
    for elsewhere in (odd.url, "ftp://127.0.0.1/a.peel", "file:///etc/passwd"):
        odd.answer = redirect(elsewhere)
        with pytest.raises(SourceError, match="the server answers 302"):
            DeviceRecommender.open(odd.url)


# ---- URLs, headers ----


def test_a_password_is_sent_and_never_shown(odd: OddServer, path: Path) -> None:
    url = odd.url.replace("//", "//me:p%40ss%20word@") + "?token=hidden#part"
    assert best(url) == best(path)
    told = base64.b64encode(b"me:p@ss word").decode()
    assert {request["authorization"] for request in odd.seen} == {f"Basic {told}"}
    odd.seen.clear()
    assert best(url, headers={"authorization": "Bearer x"}) == best(path)
    assert {request["authorization"] for request in odd.seen} == {"Bearer x"}
    odd.answer = lambda h, b, f, s: plain(h, b"no such file" * 6, f, 72)
    with pytest.raises(FormatError) as damaged:
        DeviceRecommender.open(url)
    odd.answer = lambda h, b, f, s: h.send_error(401)
    shown = [str(damaged.value)]
    for bad in (
        url,
        "http://me:p%40ss@127.0.0.1:1/a?token=hidden",
        "http://me:p%40ss@[::1/a?token=hidden",
        "http://me:p%40ss@127.0.0.1:port/a?token=hidden",
        "http://me:p%40ss/word@host/a?token=hidden",
        "http://me:p%40ss@/a?token=hidden",
        f"http://me:p%40ss@{'x' * 64}.example/a?token=hidden",
        "http://me:p%40ss@127.0.0.1:99999/a?token=hidden",
    ):
        with pytest.raises(SourceError) as caught:
            DeviceRecommender.open(bad)
        shown.append(str(caught.value))
    for text in shown:
        assert not any(secret in text for secret in ("me:", "p%40ss", "p@ss", "hidden")), text
    assert shown[1] == f"{odd.url}: the server answers 401"


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"headers": ["a"]}, TypeError, "headers must be a mapping, got a list"),
        ({"headers": {"a": 1}}, TypeError, "headers must map text to text"),
        ({"headers": {"a b": "x"}}, ValueError, "headers must have names as HTTP has them"),
        ({"headers": {"a": "secret\r\nb: c"}}, ValueError, r"headers\['a'\] must be one line"),
        ({"headers": {"a": "secret €"}}, ValueError, r"headers\['a'\] must be one line"),
        ({"headers": {"RANGE": "x"}}, ValueError, "headers must not have 'RANGE'"),
        ({"timeout": 0}, ValueError, "timeout must be above 0 and at most 86400, got 0"),
        ({"timeout": 1e30}, ValueError, "timeout must be above 0 and at most 86400, got 1e"),
        (
            {"timeout": float("nan")},
            ValueError,
            "timeout must be above 0 and at most 86400, got nan",
        ),
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, got '5'"),
    ],
)
def test_headers_and_timeouts_that_cannot_be(
    options: dict[str, Any], error: type[Exception], says: str, odd: OddServer, path: Path
) -> None:
    with pytest.raises(error, match=says) as caught:
        DeviceRecommender.open(odd.url, **options)
    assert "secret" not in str(caught.value)
    assert odd.seen == []
    (name,) = options
    with pytest.raises(ValueError, match=f"{name} is for files on a server, got"):
        DeviceRecommender.open(path, **options)


def test_the_command_line_sends_headers(
    odd: OddServer, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = odd.url.replace("http://", "HTTP://me:secret@")
    options = ["--header", "X-Key: a: b", "--header", "x-other:c", "--timeout", "5"]
    command = ["recommend", url, "--history", NAMES[3], "--budget", "50%", *options]
    assert main(command) == 0
    assert {(r["x-key"], r["x-other"]) for r in odd.seen} == {("a: b", "c")}
    assert main(["similar", url, NAMES[3], *options]) == 0
    assert capsys.readouterr().out
    odd.answer = lambda h, b, f, s: h.send_error(404)
    for verb in (["recommend", url, "--history", NAMES[3]], ["similar", url, NAMES[3]]):
        for budget in ([], ["--budget", "1%"]):
            assert main([*verb, *budget]) == 1
            told = capsys.readouterr().err
            assert told == f"peel: {odd.url.replace('http', 'HTTP', 1)}: the server answers 404\n"
    for other in (["inspect", url], ["recommend", url, "--user", "7"], ["recommend", url, "--users",
                  "all", "--out", str(path.parent / "lists.csv")]):  # fmt: skip
        assert main(other) == 1
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert "secret" not in told
    assert main([*verb, "--timeout", "-1"]) == 1
    assert "timeout must be above 0 and at most 86400, got -1" in capsys.readouterr().err
    assert main(["similar", str(path), NAMES[3], "--timeout", "5"]) == 1
    assert "timeout is for files on a server" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([*verb, "--header", "secret"])
    assert "argument --header: expected 'Name: value'" in (told := capsys.readouterr().err)
    assert "secret" not in told.rpartition("error")[2]


def test_the_command_line_tells_of_an_answer_for_nobody(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DeviceRecommender.open(path, 3_000) as recommender:
        pee = recommender._file.pee()
        missing = np.setdiff1d(np.arange(ROWS), np.array(pee.row_ids()))[0]
    command = ["recommend", str(path), "--history", NAMES[missing], "--budget", "3000", "--json"]
    assert main(command) == 0
    streams = capsys.readouterr()
    assert streams.err.startswith("peel: no item of the history is held, and the file has no")
    assert streams.err.count("\n") == 1
    assert main([*command, "--quiet"]) == 0
    assert capsys.readouterr() == (streams.out, "")
