"""What PyYAML, which follows version 1.1, reads otherwise than people mean it."""

from __future__ import annotations

import re

import yaml

_BOOL, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"


class NumberLoader(yaml.SafeLoader):
    """In which 2e-5 is a number and 2026-11-23 a text, as in YAML 1.2.

    PyYAML takes only 2.0e-5 for a number, and makes a date of the other, which no option is.
    """


NumberLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _DATE]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
NumberLoader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


class WordLoader(NumberLoader):
    """In which yes, no, on and off are words too, as in YAML 1.2: they are names of classes."""


WordLoader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in resolvers if tag != _BOOL or first in "tTfF"]
    for first, resolvers in NumberLoader.yaml_implicit_resolvers.items()
}
