"""The picture of a book's graph as one page that needs nothing else: `render_graph`, `save_graph`.

As with an answer's page (`openbook.answer.html`), no text of a document can become markup: Jinja escapes what is
written here, the rest stands as JSON in which no character can end the script, and the page's policy allows its own
style and script by their hashes and nothing else. Communities can be read without the script.
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from openbook.answer import palette
from openbook.answer.graph_page.data import Picture, named, picture
from openbook.answer.html import embedded_json, markup, policy_of

if TYPE_CHECKING:
    from jinja2 import Template

    from openbook.book.communities import Communities
    from openbook.book.graph import Graph


def render_graph(graph: Graph, communities: Communities, seed: int = 0) -> str:
    """The page of a graph and its communities: one self-contained document, to be written as UTF-8."""
    return render(picture(graph, communities, seed))


def save_graph(graph: Graph, communities: Communities, path: str | Path) -> Path:
    """Write the page; returns its path."""
    target = Path(path).expanduser()
    target.write_text(render_graph(graph, communities), encoding="utf-8")
    return target


def render(shown: Picture) -> str:
    """The page of what is shown."""
    style, script = palette.stylesheet() + _part("graph.css"), _part("graph.js")
    return _template().render(
        p=shown,
        said=lambda numbers: named(shown.sentences, shown.documents, numbers),
        hues=len(palette.HUES),
        policy=policy_of(style, script),
        style=markup(style),
        script=markup(script),
        data=markup(embedded_json(shown.to_dict())),
    )


def _part(name: str) -> str:
    return files("openbook.answer.graph_page").joinpath(name).read_text(encoding="utf-8")


@cache
def _template() -> Template:
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True)
    environment.filters["hue_class"] = palette.hue_class
    return environment.from_string(_part("graph.html"))
