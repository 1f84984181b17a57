"""A question about the whole book: what is read of it, points of it, and the evidence of each.

from openbook.answer.summarize import Plan, summarize

summary = summarize("What are the main themes?", book=book, plan=Plan(points=6))
summary.points[0].text; summary.points[0].evidence[0].cited_text; summary.to_dict()
"""

from openbook.answer.summarize.making import summarize, summarize_with
from openbook.answer.summarize.summary import Plan, Summary

__all__ = ["Plan", "Summary", "summarize", "summarize_with"]
