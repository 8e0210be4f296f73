"""The templates, and what they may do with a text."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from rankwright.job.card import cell


def environment(*, autoescape: bool) -> Environment:
    """The templates of a report: escaped for HTML, as they are for Markdown."""
    templates = Environment(
        loader=PackageLoader("rankwright.study.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"glued": glued, "cell": cell}
    return templates


def source(templates: Environment, name: str) -> str:
    """A file beside the templates, as it is."""
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def glued(text: str) -> str:
    """The text with means that do not break before their interval."""
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
