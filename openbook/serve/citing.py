"""An answer's citations in OpenAI's shape, with the address on this server where each can be read in its place."""

from __future__ import annotations

from urllib.parse import quote

from openbook.answer.answer import Answer
from openbook.book.writer import document_id
from openbook.serve.asked import Asked
from openbook.serve.replies import Citation, Link
from openbook.serve.ways import Told


def citations(answer: Answer | Told, asked: Asked, address: str = "") -> list[Citation]:
    """OpenAI's `annotations` of an answer; `address` is this server's."""
    facts = answer.to_dict()
    sources = {source["id"]: source for source in facts["sources"]}
    made = []
    for cited in facts["citations"]:
        source = sources[cited["source"]]
        place = source["members"][cited["member"]] if cited.get("member") is not None else source
        name = place.get("document") or ""
        start, end = cited["span"]
        a, b = cited["source_span"]
        made.append(
            Citation(
                file_id=document_id(name),
                filename=name,
                index=start,
                start_index=start,
                end_index=end,
                source=cited["source"],
                source_span=(a, b),
                cited_text=cited["cited_text"],
                page=place.get("page"),
                line=place.get("line"),
                url_citation=Link(
                    start_index=start,
                    end_index=end,
                    title=place.get("title") or name,
                    url=f"{address}{_path(asked, name)}#span={a}-{b}",
                ),
            )
        )
    return made


def _path(asked: Asked, document: str) -> str:
    if asked.shelved is None or asked.book is None:
        return ""
    return f"/v1/books/{quote(asked.shelved.name)}/documents/{quote(document)}?at={asked.book.version}"
