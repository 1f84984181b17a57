"""Stored answers: pairs of questions and answers in a book, found again by other words (docs/faq.md).

`pairs`, `forms`, `pages`, `read`: files of pairs as documents · `learn`, `undo`: judgements · `entries`, `words`,
`terms`, `index`: what is compared · `fit`: weights and threshold · `kept`: on disk · `knowledge`: all of it, asked.
"""
