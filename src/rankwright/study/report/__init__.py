"""The report of a study: an HTML file, a Markdown summary, and the model card of an adapter."""

from rankwright.study.report.card import render_card
from rankwright.study.report.page import render_html, render_markdown
from rankwright.study.report.write import write_card, write_html, write_markdown

__all__ = [
    "render_card",
    "render_html",
    "render_markdown",
    "write_card",
    "write_html",
    "write_markdown",
]
