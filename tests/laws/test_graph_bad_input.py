"""Issue by issue what a corpus can do to a graph, from the file to the answer: nothing, one word, too many names, names
that are each other's aliases, scripts side by side."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from forgettable import ENCODER
from test_graph import book_of
from test_graph_asked import Capitals

from openbook.answer.faq import reply
from openbook.answer.graph_page import save_graph
from openbook.book import find, open_book
from openbook.book.communities import Communities, _strength, communities
from openbook.book.faq.knowledge import open_knowledge
from openbook.book.faq.pairs import MEDIA
from openbook.book.graph.asking import Extracting, ask, choose, estimate
from openbook.book.store import Book
from openbook.cli import main


def everything(book: Book, question: str) -> Communities:
    """All that is done with a graph, once; what a model may be asked, too."""
    divided = communities(book.graph())
    named = [e for community in divided.level(0) for e in community.entities]
    assert len(set(named)) == len(named) == (np.diff(book.graph().weights_EE.indptr) > 0).sum()
    for community in divided.all:
        assert community.entities == tuple(_strength(book.graph(), np.array(sorted(community.entities)))[0].tolist())
    for community in divided.level(0)[:3]:
        assert all(sentence.text.strip() for sentence in divided.report(community).sentences)
    for way in ("graph", "pagerank"):
        assert 0 < len(find(book, question, 5, ENCODER, by=way)) <= min(5, book.count)
    assert save_graph(book.graph(), divided, book.path.parent / "page.html").exists()
    planned = estimate(book, Capitals())
    choose(book, Extracting(how="both", made=Capitals.made))
    done = ask(book, Capitals())
    assert done.calls == planned.calls and done.left == 0
    communities(open_book(book.path).graph())
    return divided


@pytest.mark.parametrize("text", ["", " \n\n ", "12 34", "… — !!!", "of the and"])
def test_nothing(tmp_path: Path, text: str) -> None:
    book = book_of(tmp_path, a=text, b="and so on, and so on")
    assert everything(book, "so on").levels == 0


@pytest.mark.parametrize("word", ["buffalo ", "Buffalo ", "水牛", "a", "A. ", "(WHO) "])
def test_one_word_over_and_over(tmp_path: Path, word: str) -> None:
    book = book_of(tmp_path, a=word * (20_000 // len(word)))
    everything(book, "buffalo")
    assert len(book.graph()) <= 4


def test_too_many_names_in_one_document(tmp_path: Path) -> None:
    names = " ".join(f"Aq{i} Bv{i} met Cx{i * 7 % 120} Dz{i * 7 % 120}." for i in range(120))
    crowd = ", ".join(f"Ef{i} Gh{i}" for i in range(120))
    book = book_of(tmp_path, names=names, crowd=crowd)
    divided = everything(book, "Who met Aq7 Bv7?")
    assert len(book.graph()) > 300 and len(divided) > 100


def test_one_giant_component(tmp_path: Path) -> None:
    star = " ".join(f"Hub Person met Ab{i} Cd{i}. Ab{i} Cd{i} met Ab{i // 2} Cd{i // 2}." for i in range(300))
    divided = everything(book_of(tmp_path, star=star), "Who met Hub Person?")
    assert divided.levels >= 1 and max(len(c.entities) for c in divided.level(divided.levels - 1)) < 250


def test_aliases_that_lead_back_to_themselves(tmp_path: Path) -> None:
    book = book_of(
        tmp_path,
        a="Ada Bell (AB) met Boris Thorn. Ada Bell (AB) sings.",
        b="AB (Ada Bell) met Clara Finch.",
        c="Ab Dell (AB) met Ada Bell. Ab Dell (ABD) met ABD (AB) and Ab Dell (AB).",
        d="Ada Bell (Ada Bell) (AB) (AB).",
    )
    everything(book, "Whom did AB meet?")
    assert book.graph().find("AB") is not None


MIXED = {
    "ar": "وصل فريق الباحثين إلى القاهرة مع OpenAI. كتب Maurice Thorn رسالة إلى فريق الباحثين.",
    "he": "הצוות הגדול הגיע אל העיר עם OpenAI. הצוות הגדול פגש את Maurice Thorn.",
    "zh": "人工智能公司OpenAI在北京。Maurice Thorn访问了北京的人工智能公司。",
    "all": "\u202eOpenAI\u202c met \u2067هم\u2069 and 北京 — הצוות הגדול; Maurice Thorn\u200f, İstanbul, ﬁnal, Straße.",
}


def test_scripts_side_by_side_and_from_right_to_left(tmp_path: Path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(
        "openbook.cli.graph.open_for", lambda config, docs, at: (open_book(config.book, at=at), ENCODER)
    )
    book = book_of(tmp_path, **MIXED)
    everything(book, "من هو Maurice Thorn؟")
    graph = open_book(book.path).graph()
    entity = graph.find("Maurice Thorn")
    assert entity.passages == 4
    for number in range(len(graph)):
        for sentence in graph.sentences(graph.sentences_of(number)[:1]):
            assert graph.book.text(sentence.document)[sentence.start : sentence.end] == sentence.text
    assert main(["graph", "Maurice Thorn", "--book", str(book.path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert {place["document"] for r in told["relations"] for place in r["sentences"]} >= {"notes/he.md", "notes/ar.md"}
    assert main(["graph", "Maurice Thorn", "--book", str(book.path)]) == 0
    assert "\u202e" not in capsys.readouterr().out


def test_pairs_of_several_scripts_empty_and_double(tmp_path: Path) -> None:
    rows = [
        "question,answer", "How do I reset it?,Hold the button.", "كيف أعيد تشغيل الجهاز؟,اضغط على الزر لمدة عشر ثوان.",
        "איך מאפסים את המכשיר?,לוחצים על הכפתור.", "如何重置路由器？,按住按钮十秒钟。", ",nobody asked",
        "how do i RESET it,Hold the button.", "   ,  ", "How do I reset it?,", '"\u202eWhy\u202c?",Because.',
    ]  # fmt: skip
    path = tmp_path / "help.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    book = open_book(tmp_path / "book")
    book.add(path, encoder=ENCODER, as_media=MEDIA, made="faq add")
    known = open_knowledge(book, ENCODER)
    for row in rows[1:5]:
        question, answer = row.split(",")
        assert reply(question, known, threshold=0.0).text == answer
