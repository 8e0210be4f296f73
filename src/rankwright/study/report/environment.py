"""The Jinja environment of the report's templates, with its filters."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from rankwright.job.card import cell


def make_environment(*, autoescape: bool) -> Environment:
    """Return the environment of the templates; `autoescape` is for HTML, not for Markdown."""
    templates = Environment(
        loader=PackageLoader("rankwright.study.report"),
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    templates.filters |= {"nonbreaking": nonbreaking, "cell": cell}
    return templates


def read_source(templates: Environment, name: str) -> str:
    """Return the text of a file beside the templates."""
    assert templates.loader is not None
    return templates.loader.get_source(templates, name)[0]


def nonbreaking(text: str) -> str:
    """Return the text with no line break between a mean and its interval."""
    return text.replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
