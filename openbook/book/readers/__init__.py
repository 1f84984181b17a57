"""The readers that come with openbook; importing this registers them."""

from openbook.book.readers import docx, html, markdown, pdf, plain

__all__ = ["docx", "html", "markdown", "pdf", "plain"]
