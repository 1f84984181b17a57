"""The readers that come with openbook; importing this registers them."""

from openbook.book.readers import html, markdown, pdf, plain

__all__ = ["html", "markdown", "pdf", "plain"]
