"""The report of a study: one HTML file, a Markdown summary, the card of an adapter."""

from rankwright.study.report.card import model_card
from rankwright.study.report.page import html, markdown
from rankwright.study.report.write import write_card, write_html, write_markdown

__all__ = ["html", "markdown", "model_card", "write_card", "write_html", "write_markdown"]
