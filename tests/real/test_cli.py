"""The command line as people and programs meet it: a process, its two streams, its exit status."""

from __future__ import annotations

import json
import os
import pty
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import openbook
from openbook.book import Added, Hit, Passage, open_book
from openbook.cli.books import show, summary
from openbook.home import home
from openbook.lm.weights.catalogue import CATALOGUE
from openbook.lm.weights.pull import installed

pytestmark = pytest.mark.skipif(
    not {model.name for model in CATALOGUE if not model.terms} <= {model.name for model in installed()},
    reason="needs the models: openbook models pull --all",
)

QUESTION = "Who led the comet team?"
COMMAND = [sys.executable, "-c", "import sys; from openbook.cli import main; sys.exit(main())"]
NOTES = {
    "comet.md": "# The comet team\n\nThe comet Velmora was first seen in 1987 from the station at Harrowgate. "
    "Maurice Delacourt led the comet team for eleven years.\n\nThe team had nine members and one telescope.\n",
    "bridge.txt": "The Osterby bridge was opened in 1911. It is 340 metres long. Agnes Holm designed it.\n",
    "latin.txt": "Das Café Müßig öffnet täglich um sieben Uhr früh. Es gehört Frau Grün.\n",
}
BAD = {
    "corrupt.pdf": b"%PDF-1.4\n" + bytes(range(256)) * 20,
    "truncated.pdf": b"%PDF-1.4\n1 0 obj\n<</Type/Catalog/Pa",
    "binary.txt": bytes(range(256)) * 8,
    "empty.md": b"",
}

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]


def environment(models: Path) -> dict[str, str]:
    """A home of its own with the models that are here; none of the person's settings."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("OPENBOOK_")}
    return {**clean, "OPENBOOK_HOME": str(models), "OMP_NUM_THREADS": "1", "COLUMNS": "80"}


@pytest.fixture(scope="module")
def env(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    own = tmp_path_factory.mktemp("home")
    (own / "models").symlink_to(home() / "models")
    return environment(own)


@pytest.fixture(scope="module")
def docs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of documents, good and bad."""
    folder = tmp_path_factory.mktemp("world") / "notes"
    folder.mkdir()
    for name, text in NOTES.items():
        (folder / name).write_bytes(text.encode("latin-1" if name == "latin.txt" else "utf-8"))
    for name, data in BAD.items():
        (folder / name).write_bytes(data)
    with (folder / "huge.txt").open("wb") as file:
        file.truncate(70 * 2**20)  # a hole: it costs nothing
    return folder


@pytest.fixture(scope="module")
def run(env: dict[str, str], docs: Path) -> Run:
    """Runs a command in the folder above the documents."""

    def run(*arguments: str | Path, cwd: Path = docs.parent, **more: str) -> Done:
        return subprocess.run(
            [*COMMAND, *map(str, arguments)], cwd=cwd, env={**env, **more}, capture_output=True, text=True, timeout=120
        )

    return run


@pytest.fixture(scope="module")
def first(run: Run) -> Done:
    """The first question to the folder: it makes the book."""
    return run("ask", QUESTION, "--docs", "notes", "--json")


@pytest.fixture(scope="module")
def answer(first: Done) -> dict[str, Any]:
    assert first.returncode == 0, first.stderr
    found: dict[str, Any] = json.loads(first.stdout)
    return found


def one_fault(done: Done, *words: str, status: int = 1) -> None:
    """One clear line on standard error, nothing on standard output, the right status."""
    assert done.returncode == status, (done.returncode, done.stderr)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("openbook: "), done.stderr
    assert all(word in lines[0] for word in words), lines[0]


# What INTERFACES.md promises of an answer.

NUMBER, MAYBE = (int, float), (int, float, type(None))
SHAPES: dict[str, dict[str, Any]] = {
    "answer": {
        "question": str, "answer": str, "abstained": bool, "seed": int, "model": str, "book": dict, "settings": dict,
        "sources": list, "tokens": list, "citations": list, "timings": dict,
    },
    "book": {"path": str, "version": int},
    "settings": {"persistence": NUMBER, "passages": int, "lambda_knn": NUMBER},
    "passage": {
        "id": str, "kind": str, "document": str, "title": (str, type(None)), "page": (int, type(None)),
        "line": (int, type(None)), "span": list, "text": str, "prior": NUMBER, "responsibility": NUMBER, "bits": MAYBE,
        "necessity": MAYBE, "sufficiency": MAYBE,
    },
    "closed_book": {"id": str, "kind": str, "prior": NUMBER, "responsibility": NUMBER},
    "token": {
        "text": str, "span": list, "p": NUMBER, "bits": MAYBE, "responsibility": dict, "certified": (int, type(None)),
    },
    "citation": {
        "span": list, "source": str, "source_span": list, "cited_text": str, "responsibility": NUMBER,
    },
    "timings": {"retrieve_ms": NUMBER, "first_token_ms": NUMBER, "tokens_per_second": NUMBER},
}  # fmt: skip


def of_shape(value: dict[str, Any], name: str) -> None:
    shape = SHAPES[name]
    assert shape.keys() <= value.keys(), f"{name} lacks {shape.keys() - value.keys()}"
    wrong = {key: value[key] for key, kind in shape.items() if not isinstance(value[key], kind)}
    assert not wrong, f"{name}: {wrong}"


def test_an_answer_has_every_field(answer: dict[str, Any]) -> None:
    of_shape(answer, "answer")
    for name in ("book", "settings", "timings"):
        of_shape(answer[name], name)
    for source in answer["sources"]:
        of_shape(source, source["kind"])
    for token in answer["tokens"]:
        of_shape(token, "token")
    for citation in answer["citations"]:
        of_shape(citation, "citation")


def test_its_numbers_and_places_are_true(answer: dict[str, Any]) -> None:
    text, sources = answer["answer"], {source["id"]: source for source in answer["sources"]}
    assert "Delacourt" in text and not answer["abstained"]
    assert "".join(token["text"] for token in answer["tokens"]) == text
    for token in answer["tokens"]:
        assert token["text"] == text[slice(*token["span"])]
        assert token["responsibility"].keys() == sources.keys()
        assert sum(token["responsibility"].values()) == pytest.approx(1, abs=1e-5)
        assert 0 < token["p"] <= 1
    book = open_book(answer["book"]["path"], create=False)
    assert book.version == answer["book"]["version"]
    assert answer["citations"], "an answer that repeats a passage cites it"
    for source in sources.values():
        if source["kind"] == "passage":
            assert book.text(source["document"])[slice(*source["span"])] == source["text"]
    for citation in answer["citations"]:
        document = book.text(sources[citation["source"]]["document"])
        assert document[slice(*citation["source_span"])] == citation["cited_text"]
        assert 0 <= citation["span"][0] < citation["span"][1] <= len(text)


def test_what_was_read_and_skipped_is_told(first: Done) -> None:
    lines = first.stderr.splitlines()
    assert all(line.startswith("openbook: ") for line in lines)
    assert lines[-1] == "openbook: 3 documents read, 3 passages, 5 skipped"
    for name in [*BAD, "huge.txt"]:
        (line,) = [line for line in lines if name in line]
        assert line.startswith("openbook: skipped ") and ": " in line
    assert "more than the limit of 64.0 MB" in first.stderr


def test_files_without_a_reader_are_counted_aloud() -> None:
    assert summary(Added(documents=1, passages=2, ignored=3)) == (
        "1 document read, 2 passages, 3 of other kinds left out"
    )


def test_one_seed_one_answer(run: Run, answer: dict[str, Any], tmp_path: Path) -> None:
    page = tmp_path / "why.html"
    drawn = ["ask", QUESTION, "--docs", "notes", "--json", "--temperature", "0.8", "--seed", "3", "--max-tokens", "24"]
    one, two = run(*drawn), run(*drawn, "--html", page)
    assert (one.returncode, two.returncode) == (0, 0), one.stderr + two.stderr
    first, second = json.loads(one.stdout), json.loads(two.stdout)
    assert first.pop("timings") and second.pop("timings")
    assert first == second and first["seed"] == 3
    html = page.read_text(encoding="utf-8")
    assert html.lstrip().lower().startswith("<!doctype html") and "Delacourt" in html


def test_it_abstains_with_status_3(run: Run, answer: dict[str, Any]) -> None:
    done = run("ask", "What is the tax rate in Peru?", "--book", answer["book"]["path"], "--margin", "1000", "--json")
    assert done.returncode == 3, done.stderr
    found = json.loads(done.stdout)
    of_shape(found, "answer")
    assert found["abstained"] and found["answer"] == "" and found["reason"] and not found["tokens"]


def test_on_a_terminal_it_streams_and_why_shows_it_again(
    run: Run, env: dict[str, str], answer: dict[str, Any], docs: Path, tmp_path: Path
) -> None:
    command = [*COMMAND, "ask", QUESTION, "--docs", "notes", "--max-tokens", "16"]
    status, shown = on_terminal(command, {**env, "TERM": "xterm-256color"}, docs.parent)
    assert status == 0, shown
    assert "comet.md" in shown and "\x1b[" in shown and "Traceback" not in shown
    again = run("why", "--json")
    assert again.returncode == 0, again.stderr
    last = json.loads(again.stdout)
    assert last["question"] == QUESTION and last["book"]["path"] == answer["book"]["path"]
    assert last["answer"].split()[0] in shown
    plain = run("why", "1")
    assert plain.returncode == 0 and "Delacourt" in plain.stdout and "\x1b[" not in plain.stdout
    assert run("why", "--html", tmp_path / "w.html").returncode == 0 and (tmp_path / "w.html").stat().st_size > 1000
    one_fault(run("why", "999"), "no answer 999", "kept there")


def on_terminal(command: list[str], env: dict[str, str], cwd: Path) -> tuple[int, str]:
    """Exit status and everything written by a command whose three streams are a terminal."""
    leader, follower = pty.openpty()
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=env, cwd=cwd)
    os.close(follower)
    written = b""
    while select.select([leader], [], [], 60)[0]:
        try:
            data = os.read(leader, 65536)
        except OSError:  # how Linux says that the last writer has closed it
            break
        if not data:
            break
        written += data
    os.close(leader)
    return process.wait(60), written.decode("utf-8", "replace")


def test_find_ranks_the_passage_first(run: Run, answer: dict[str, Any]) -> None:
    done = run("find", "who designed the bridge", "--book", answer["book"]["path"], "-k", "2", "--json")
    assert done.returncode == 0, done.stderr
    hits = json.loads(done.stdout)["hits"]
    assert [hit["rank"] for hit in hits] == [1, 2] and hits[0]["document"] == "notes/bridge.txt"
    assert sum(hit["prior"] for hit in hits) == pytest.approx(1, abs=1e-5)


def test_what_documents_say_cannot_command_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    text = "red \x1b[31mred\x1b]0;title\x07 [bold]plain[/bold]"
    passage = Passage("i", "d\n\x1b[2J.txt", "t", None, text, 0, len(text), None, 1)
    show([Hit(passage, 1.0, 1.0, 1.0)])
    shown = capsys.readouterr().out
    assert (
        "\x1b" not in shown and "\x07" not in shown and "[bold]plain[/bold]" in shown and len(shown.splitlines()) == 3
    )


def test_models_say_what_they_are(run: Run) -> None:
    listed = run("models", "--json")
    assert listed.returncode == 0 and all(m["here"] or m["terms"] for m in json.loads(listed.stdout))
    assert run("models").stdout.startswith("smollm2 ")
    shown = json.loads(run("models", "show", "smollm2", "--json").stdout)
    assert shown["parameters"] == 134_515_008 and shown["license"] == "Apache-2.0"
    (attention,) = shown["attention"]
    assert (attention["kind"], attention["heads"], attention["kv_heads"], attention["window"]) == ("GQA", 9, 3, None)
    assert shown["kv_bytes_per_token"] == {"bf16": 23_040, "fp32": 46_080}
    pulled = run("models", "pull", "--all", "--quiet")
    assert (pulled.returncode, pulled.stdout, pulled.stderr) == (0, "", "")


# Bad usage and bad input: one clear line.


def test_help_is_quick_and_heavy_things_stay_out() -> None:
    script = (
        "import sys, openbook, openbook.cli.app\n"
        "print([m for m in ('torch', 'lance', 'numpy', 'pydantic', 'tokenizers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"
    began = time.monotonic()
    done = subprocess.run([*COMMAND, "ask", "--help"], capture_output=True, text=True, check=True)
    assert "--persistence" in done.stdout and "Example:" in done.stdout
    assert time.monotonic() - began < 2, "alone on a machine it takes 0.2 s"


def test_the_python_names_are_there() -> None:
    assert {"open_book", "load_model", "ask", "stream", "Answer", "Fault"} <= set(dir(openbook))
    assert all(getattr(openbook, name) is not None for name in (*dir(openbook), "__version__"))
    assert openbook.open_book is open_book
    with pytest.raises(AttributeError, match="has no attribute 'nobody'"):
        openbook.nobody  # noqa: B018


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask"], ["question", "openbook ask --help"]),
        (["asks", "x"], ["no such command", "--help"]),
        (["ask", "x", "--persistence", "2"], ["--persistence is 2.0", "less than or equal to 1"]),
        (["ask", "x", "--precision", "fp8"], ["--precision is 'fp8'", "bf16"]),
        (["ask", "x", "--seed", "soon"], ["--seed"]),
        (["find", "x", "-k", "0"], ["-k"]),
        (["models", "pull"], ["--all"]),
        (["why", "0"], ["'N'", "greater than or equal to 1"]),
    ],
)
def test_bad_usage_is_status_2(run: Run, arguments: list[str], words: list[str]) -> None:
    one_fault(run(*arguments), *words, status=2)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["ask", "  "], ["the question is empty"]),
        (["find", ""], ["the query is empty"]),
        (["ask", "x"], ["there is no book at .openbook", "openbook add FOLDER", "--docs"]),
        (["ask", "x", "--docs", "nowhere"], ["nowhere does not exist"]),
        (["ask", "x", "--docs", "notes", "--model", "nobody"], ["no model 'nobody'", "smollm2"]),
        (["add", "nowhere"], ["nowhere does not exist"]),
        (["why", "--book", "nowhere"], ["no answers are kept in nowhere", "openbook ask"]),
    ],
)
def test_what_is_not_there_is_said_at_once(run: Run, arguments: list[str], words: list[str]) -> None:
    one_fault(run(*arguments), *words)


def test_settings_come_from_the_file_and_the_environment(run: Run, tmp_path: Path) -> None:
    (tmp_path / "openbook.toml").write_text("bok = 'x'\n")
    one_fault(run("ask", "x", cwd=tmp_path), "openbook.toml", "unknown key 'bok'", "did you mean book?")
    (tmp_path / "openbook.toml").write_text("book = 'mine'\n")
    one_fault(run("ask", "x", cwd=tmp_path), "there is no book at mine")
    one_fault(run("ask", "x", cwd=tmp_path, OPENBOOK_BOOK="yours"), "there is no book at yours")
    one_fault(run("ask", "x", "--book", "ours", cwd=tmp_path, OPENBOOK_BOOK="yours"), "there is no book at ours")


@pytest.fixture(scope="module")
def bad_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    smollm2 = next(model for model in CATALOGUE if model.name == "smollm2")
    with smollm2.path.open("rb") as file:
        (folder / "truncated.gguf").write_bytes(file.read(3_000_000))
    (folder / "model.pt").write_bytes(b"\x80\x02}q\x00.")
    (folder / "zebra").mkdir()
    (folder / "zebra" / "config.json").write_text('{"model_type": "zebra", "architectures": ["ZebraForCausalLM"]}')
    return {"truncated": folder / "truncated.gguf", "pickle": folder / "model.pt", "zebra": folder / "zebra"}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("truncated", ["truncated.gguf is truncated", "download it again"]),
        ("pickle", ["model.pt is a pickle", "safetensors and GGUF"]),
        ("zebra", ["'ZebraForCausalLM' is not supported"]),
    ],
)
def test_a_bad_model_is_refused(run: Run, bad_models: dict[str, Path], name: str, words: list[str]) -> None:
    one_fault(run("ask", QUESTION, "--docs", "notes", "--model", bad_models[name]), *words)


def test_neighbours_that_were_not_made_are_named(run: Run) -> None:
    run("add", "notes", "--book", "notes.book")
    one_fault(run("ask", QUESTION, "--book", "notes.book", "--lambda-knn", "auto"), "no neighbours", "--neighbours")


def test_documents_that_cannot_be_read_are_a_fault(run: Run, docs: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_fault(run("add", tmp_path / "empty", "--book", tmp_path / "b"), "no readable documents in")
    done = run("add", docs / "truncated.pdf", docs / "binary.txt", "--book", tmp_path / "b")
    one_fault(done, "nothing could be read", "truncated.pdf: ", "binary.txt: ")


def test_a_question_longer_than_the_context_is_refused(run: Run, answer: dict[str, Any]) -> None:
    done = run("ask", "word " * 9_000, "--book", answer["book"]["path"])
    one_fault(done, "the question has 9000 tokens", "8192", "ask a shorter question")


def test_no_space_is_one_line(env: dict[str, str], docs: Path) -> None:
    """In a name space of its own, where a tiny disk is mounted that goes with it."""
    alone = [shutil.which("unshare") or "", "-rm", "/bin/sh", "-c"]
    mount = "mount -t tmpfs -o size=64k none /mnt"
    if not alone[0] or subprocess.run([*alone, mount], capture_output=True).returncode:
        pytest.skip("may not mount a small disk here")
    add = f"{mount} && exec {shlex.join([*COMMAND, 'add', 'notes', '--book', '/mnt/b'])}"
    done = subprocess.run([*alone, add], cwd=docs.parent, env=env, capture_output=True, text=True, timeout=60)
    one_fault(done, "the disk under /mnt/b is full", "free some space and run the same command again")


def test_nobody_listening_is_no_fault(env: dict[str, str]) -> None:
    process = subprocess.Popen(
        [*COMMAND, "models", "--json"], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert (process.stderr.read(), process.wait(30)) == ("", 141)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_cannot_be_written_is_a_fault(env: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*COMMAND, "models"], env=env, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1 and done.stderr.startswith("openbook: No space left on device; free some space")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Enough documents that adding them takes more than one commit."""
    folder = tmp_path_factory.mktemp("many") / "many"
    folder.mkdir()
    for index in range(100):
        text = f"Lamp {index} stands in street {index * 7} and burns {index + 3} hours. " * 8
        (folder / f"lamp{index:03d}.txt").write_text(text)
    return folder


# The command with a disk that stops at the 81st document, after the first commit and before the last.
HANGING = """
import signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # behind an & of a shell it is ignored, and inherited
from openbook.book import adding
load = adding.load
adding.load = lambda path: time.sleep(600) if path.name == "lamp080.txt" else load(path)
from openbook.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_add_goes_on(
    run: Run, env: dict[str, str], many: Path, tmp_path: Path, how: signal.Signals
) -> None:
    book = tmp_path / "book"
    command = [sys.executable, "-c", HANGING, "add", str(many), "--book", str(book)]
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not (book / "HEAD").is_file() or int((book / "HEAD").read_text()) < 1:
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    process.send_signal(how)
    out, err = process.communicate(timeout=60)
    if how is signal.SIGINT:
        one_fault(
            subprocess.CompletedProcess(command, process.returncode, out, err), "stopped", "run again", status=130
        )
    else:
        assert process.returncode == -signal.SIGKILL
    stored = open_book(book, create=False)
    assert 0 < len(stored.documents()) <= 80, "stopped in the middle"
    again = run("add", many, "--book", book)
    assert again.returncode == 0, again.stderr
    assert f"{100 - len(stored.documents())} documents read" in again.stdout
    assert f"{len(stored.documents())} unchanged" in again.stdout
    assert len(open_book(book).documents()) == 100
