"""An answer with its evidence for other places: plain text, Markdown, a notebook's cell, a picture.

Each takes the dict of `Answer.to_dict()`, possibly from a file somebody else wrote, as `openbook.answer.page` does.
"""
