"""What PyYAML, which follows version 1.1, reads otherwise than people mean it."""

from __future__ import annotations

import re

import yaml

_BOOL = "tag:yaml.org,2002:bool"


class NumberLoader(yaml.SafeLoader):
    """In which 2e-5 is a number, as in YAML 1.2; PyYAML takes only 2.0e-5 for one."""


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
