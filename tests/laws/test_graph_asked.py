"""What a model names in documents: nothing but what they say, whatever it writes; kept call by call; equal to a
rebuild after any edits; gone with its document."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from forgettable import ENCODER, fill, raw, write
from hypothesis import given, settings
from hypothesis import strategies as st
from test_graph import EDITS, TEXTS, book_of, said

from openbook.answer import extracting, naming
from openbook.answer.extracting import WRITTEN, Local
from openbook.answer.naming import MOST_NAMES
from openbook.book import BookFault, open_book
from openbook.book.communities import communities
from openbook.book.graph import open_graph
from openbook.book.graph.asking import Extracting, Reply, ask, choose, covered, estimate, folder_of
from openbook.book.graph.extract import normal, sentences_of
from openbook.book.graph.modelled import BOTH, LLM, STRETCH, grounded, items, part_line, read_part, stretches
from openbook.book.graph.stored import FOLDER

KEY = ("ab", "cd")


class Capitals:
    """In place of a model: names capitalised words, each related to the next, and a thing that is never there."""

    made = "capitals prompt 0"

    def __init__(self) -> None:
        self.asked: list[str] = []

    def cost(self, text: str) -> tuple[int, int]:
        return len(text), 10

    def __call__(self, text: str) -> Reply:
        self.asked.append(text)
        names = [word.strip(".") for word in text.split() if word[0].isupper()]
        pairs = [[a, "stands before", b] for a, b in pairwise(names)]
        told = {"names": [[name, "word"] for name in names] + [["Atlantis", "place"]], "relations": pairs}
        return Reply(json.dumps(told), len(text), 10)


REPLIES = st.one_of(
    st.text(),
    st.lists(st.tuples(TEXTS, st.text(max_size=9))).map(lambda said: json.dumps({"names": said})),
    st.recursive(
        st.none() | st.floats() | st.text(max_size=9) | st.sampled_from(["Ada", "Quill", "Ada Quill", "met"]),
        lambda inner: (
            st.lists(inner, max_size=4)
            | st.dictionaries(st.sampled_from(["name", "a", "b", "type"]), inner, max_size=4)
        ),
        max_leaves=8,
    ).map(json.dumps),
)


@given(TEXTS, REPLIES, st.integers(0, 400))
@settings(max_examples=60)
def test_whatever_a_model_writes_what_is_kept_of_it_is_said_in_the_text(text, reply, cut) -> None:
    sentences = list(sentences_of(text))
    part = grounded(KEY, 0, 1, text, sentences, (0, len(sentences)), reply[: len(reply) - cut])
    for row, name, start, end in part.mentions_R4.tolist():
        assert normal(text[start:end]) == part.normals[name]
        assert sentences[row][0] <= start < end <= sentences[row][1]
    for tie in part.ties:
        rows = {part.normals[name]: set() for _, name, _, _ in part.mentions_R4.tolist()}
        for row, name, _, _ in part.mentions_R4.tolist():
            rows[part.normals[name]].add(row)
        assert tie.a != tie.b and {tie.first, tie.last} <= rows[tie.a] | rows[tie.b]
    again = read_part(part_line(part).encode())
    assert part_line(again) == part_line(part)


@given(st.lists(TEXTS, max_size=12).map("\n\n".join))
def test_every_sentence_is_in_one_stretch(text) -> None:
    spans = list(sentences_of(text))
    found = stretches(spans)
    assert [row for a, b in found for row in range(a, b)] == list(range(len(spans)))
    assert all(spans[b - 1][1] - spans[a][0] <= STRETCH or b - a == 1 for a, b in found)


@pytest.mark.parametrize(
    "text",
    [
        'Ada Quill met Boris Thorn at the river. He sold her a boat; "The Heron" \\ (1923).',
        "北京大学在北京。清华大学也在北京，两校相邻。",
        "عاشت عائشة في بغداد. كتبت رسالة إلى سلمى.",
        '\x00\x01 {"name": [[[ ]]] }} \n\n ``` \u2028 🙂🙂',
    ],
)
@pytest.mark.parametrize("seed", [0, 1])
def test_a_model_of_random_weights_writes_json_of_names_that_are_there(tiny_model, text, seed) -> None:
    import torch

    from openbook.lm.backends.torch import TorchRunner
    from openbook.lm.decoder import Decoder
    from openbook.lm.model import LanguageModel

    torch.manual_seed(seed)
    decoder = Decoder(tiny_model.spec)
    local = Local(LanguageModel("tiny", TorchRunner(decoder), tiny_model.tokenizer, "tiny"))
    reply = local(text)
    spans = list(sentences_of(text))
    part = grounded(KEY, 0, 1, text, spans, (0, len(spans)), reply.text)
    assert reply.written <= WRITTEN and reply.text.startswith('{"names": [')
    assert len(part.normals) <= MOST_NAMES and part.dropped[1] == 0
    told = [item.name for item in items(reply.text) if item.other is None]
    assert len(set(told)) == len(told)
    if reply.written < WRITTEN:
        json.loads(reply.text)


WORDS = st.sampled_from(
    ["Ada", "Quill", "met", "the", "U.S.", '"So"', "x_y", "北京", "of", "²", "٣", "é", "\u202e", "{"]
)


@given(st.lists(WORDS, max_size=12).map(" ".join) | st.text(max_size=30), st.sampled_from([1, 20, WRITTEN]))
@settings(max_examples=15)
def test_of_any_text_it_writes_json(tiny_model, text, most) -> None:
    local = Local(tiny_model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extracting, "WRITTEN", most)
        patch.setattr(naming, "SURE", -1e9)
        reply = local(text)
    spans = list(sentences_of(text))
    told = json.loads(reply.text)
    assert [*told] == ["names", "relations"] and reply.written <= most and len(told["names"]) <= MOST_NAMES
    part = grounded(KEY, 0, 1, text, spans, (0, len(spans)), reply.text)
    assert len(part.normals) + part.dropped[0] >= len({normal(name) for name, _ in told["names"]})


def asked(folder: Path, edits, how: str) -> object:
    book = book_of(folder, first="Ada Quill lives in Northport.", a="Boris Thorn met Ada Quill.")
    held = {"first", "a"}
    for name, text in edits:
        ask(book, Capitals())
        file = folder / "notes" / f"{name}.md"
        if text is None or text == "forget":
            file.unlink(missing_ok=True)
            if text == "forget" and name in held:
                book.forget(f"notes/{name}.md")
            held.discard(name)
        else:
            file.write_text(text)
            held.add(name)
        book.add(folder / "notes", encoder=ENCODER)
    choose(book, Extracting(how=how, made=Capitals.made))
    ask(book, Capitals())
    return book


@given(EDITS, st.sampled_from([LLM, BOTH]))
@settings(max_examples=3)
def test_after_any_edits_it_is_what_a_rebuild_is(tmp_path_factory, edits, how) -> None:
    folder = tmp_path_factory.mktemp("asked")
    book = asked(folder, edits, how)
    scratch = open_book(folder / "scratch")
    scratch.add(folder / "notes", encoder=ENCODER)
    choose(scratch, Extracting(how=how, made=Capitals.made))
    ask(scratch, Capitals())
    assert said(book.graph()) == said(scratch.graph())
    assert (book.graph().derived.types, book.graph().derived.ties) == (
        scratch.graph().derived.types,
        scratch.graph().derived.ties,
    )


def test_a_budget_stops_and_the_next_call_goes_on(tmp_path: Path) -> None:
    long = "\n\n".join(f"Ada Quill met Boris{i} Thorn in Northport." for i in range(60))
    book = book_of(tmp_path, a=long, b="Clara Finch sings.")
    model, planned = Capitals(), estimate(book, Capitals())
    assert planned.calls > 3 and not model.asked
    budget = (planned.read + planned.written) * 2 // 3
    first = ask(book, model, budget)
    assert 0 < first.calls < planned.calls and first.read + first.written <= budget
    assert first.left == planned.calls - first.calls == estimate(open_book(book.path), model).calls
    assert ask(book, model, 1).calls == 0
    second = ask(open_book(book.path), model)
    assert first.read + second.read == planned.read and len(set(model.asked)) == len(model.asked) == planned.calls
    assert covered(book, model.made) == (2, 2) and second.dropped_names == second.calls


def test_what_was_not_asked_about_stays_as_in_print_and_both_is_both(tmp_path: Path) -> None:
    book = book_of(
        tmp_path, a="Ada Quill met Boris Thorn. The river bridge stands.", b="Clara Finch sings in Eastvale."
    )
    print_alone = set(open_graph(book).derived.normals)
    choose(book, Extracting(how=LLM, made=Capitals.made))
    assert set(open_graph(book).derived.normals) == print_alone
    ask(book, Capitals())
    graph = open_graph(book)
    assert graph.find("Ada Quill") is None and graph.find("Quill").type == "word" and graph.find("Atlantis") is None
    told = graph.told(graph.find("Boris").number, graph.find("Thorn").number)
    assert [t.what for t in told] == ["stands before"]
    assert "Boris Thorn" in graph.sentences([told[0].first])[0].text
    choose(book, Extracting(how=BOTH, made=Capitals.made))
    assert {"ada quill", "boris"} <= set(open_graph(book).derived.normals)
    choose(book, Extracting())
    assert set(open_graph(book).derived.normals) == print_alone
    with pytest.raises(BookFault, match="no extractor is called 'else'"):
        choose(book, Extracting("else"))


@pytest.mark.parametrize("how", [LLM, BOTH])
def test_what_is_forgotten_is_in_no_reply(tmp_path: Path, how: str) -> None:
    book = fill(tmp_path / "book", write(tmp_path / "notes"))
    choose(book, Extracting(how=how, made=Capitals.made))
    ask(book, Capitals())
    communities(book.graph())
    left = {path: path.read_bytes() for path in folder_of(book.path / FOLDER, Capitals.made).glob("*.jsonl")}
    assert any(b"quillfeather" in data for data in left.values())
    done = book.forget("notes/mill.md")
    assert b"uillfeather" not in raw(book) and b"ebedee" not in raw(book)
    assert book.prove(done.traces).left == []
    assert covered(book, Capitals.made) == (2, 2)
    for path, data in left.items():
        path.write_bytes(data)
    assert {leftover.where.split("/")[1] for leftover in book.prove(done.traces).left} >= {
        path.parent.name for path in left
    }


def test_clean_up_takes_what_no_version_says(tmp_path: Path) -> None:
    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.", b="Dora Marsh sings.")
    ask(book, Capitals())
    (tmp_path / "notes" / "a.md").write_text("Clara Finch met Emil Stone.")
    book.add(tmp_path / "notes", encoder=ENCODER)
    again = Capitals()
    assert ask(book, again).calls == 1 and "Clara" in again.asked[0]

    def lines() -> str:
        return "".join(path.read_text() for path in folder_of(book.path / FOLDER, again.made).glob("*.jsonl"))

    assert "boris" in lines()
    book.prune(1)
    assert "boris" not in lines() and "emil" in lines() and covered(book, again.made) == (2, 2)


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from test_graph_asked import Capitals
from openbook.book import open_book
from openbook.book.graph.asking import ask

class Deadly(Capitals):
    def __call__(self, text):
        if len(self.asked) == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(text)

ask(open_book(sys.argv[1]), Deadly())
"""


def test_killed_at_work_it_loses_the_stretch_at_work(tmp_path: Path) -> None:
    long = "\n\n".join(f"Ada Quill met Boris{i} Thorn in Northport." for i in range(60))
    book = book_of(tmp_path, a=long)
    choose(book, Extracting(how=LLM, made=Capitals.made))
    command = [sys.executable, "-c", CHILD, str(book.path), "2", str(Path(__file__).parent)]
    assert subprocess.run(command, check=False).returncode == -9
    model = Capitals()
    rest = ask(open_book(book.path), model)
    whole = estimate(book_of(tmp_path / "again", a=long), Capitals()).calls
    assert rest.calls == whole - 2 and covered(open_book(book.path), model.made) == (1, 1)


def test_a_damaged_reply_is_named(tmp_path: Path) -> None:
    book = book_of(tmp_path, a="Ada Quill met Boris Thorn.")
    choose(book, Extracting(how=LLM, made=Capitals.made))
    ask(book, Capitals())
    path = next(folder_of(book.path / FOLDER, Capitals.made).glob("*.jsonl"))
    line = json.loads(path.read_text())
    for bad in ({"rows": [0, 99999]}, {"of": 0}, {"normals": []}, {"mentions": [0, 99, 0, 1]}, {"kinds": ["x"]}):
        path.write_text(json.dumps(line | bad, separators=(",", ":")) + "\n")
        if "rows" not in bad:
            with pytest.raises(BookFault, match="graph"):
                open_graph(open_book(book.path))
        else:  # of more sentences than the document has: it is of another text
            assert open_graph(open_book(book.path)).find("Ada Quill") is not None
    (book.path / FOLDER / "extraction.json").write_text("[]")
    with pytest.raises(BookFault, match="openbook graph --extract"):
        open_graph(open_book(book.path))
