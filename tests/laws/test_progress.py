"""A bar is there while there is something to tell, and gone before anybody else writes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from openbook.cli import output


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    seen: list[object] = []

    @contextmanager
    def noted() -> Iterator[Callable[[int, int, str], None]]:
        seen.append("begun")
        yield lambda done, total, what: seen.append((done, total, what))
        seen.append("gone")

    monkeypatch.setattr(output, "progress_bar", noted)
    return seen


def test_a_bar_goes_when_all_is_done_and_may_come_again(seen: list[object]) -> None:
    with output.bar_if_told() as tell:
        assert seen == []
        for done in range(3):
            tell(done, 2, "pages")
        assert seen == ["begun", (0, 2, "pages"), (1, 2, "pages"), (2, 2, "pages"), "gone"]
        tell(0, 1, "more")
        tell(1, 1, "more")
    assert seen[5:] == ["begun", (0, 1, "more"), (1, 1, "more"), "gone"]


def test_a_bar_goes_with_the_work(seen: list[object]) -> None:
    with output.bar_if_told() as tell:
        tell(0, 2, "pages")
    assert seen == ["begun", (0, 2, "pages"), "gone"]


def test_nothing_is_shown_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with output.bar_if_told() as tell:
        tell(0, 2, "pages")
        tell(2, 2, "pages")
    assert capsys.readouterr() == ("", "")
