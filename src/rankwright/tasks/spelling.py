"""Doubtful class names: likely misspellings, and names that occur once."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from rankwright.tasks.errors import Where, listing

SHOWN = 5
"""Maximum number of doubtful names in a sentence."""
RARE = 5
"""Factor by which a misspelling is at least rarer than the right name."""
LOOKED_AT = 200
"""Number of the rarest names, and of the most frequent ones that they are compared with."""
SEPARATOR = re.compile(r"(?<=[^\W_])(?!(?<=\d)[_.-]+\d)[_.-]+(?=[^\W_])")
"""Separators between two parts of a name, not between two digits; -1 and A- have none."""
LONGEST = 40
"""Names with more letters are not compared."""


@dataclass(frozen=True, slots=True)
class Found:
    """A name and its occurrences.

    Attributes:
        name: The name.
        count: Number of occurrences.
        first: Place of the first occurrence.
    """

    name: str
    count: int
    first: Where

    def __str__(self) -> str:
        return f"{self.name!r} ({self.count:,}, the first at {self.first})"


def occurrences(names: Iterable[tuple[str, Where]]) -> dict[str, Found]:
    """Count names, in the order of their first occurrence."""
    counts: dict[str, int] = {}
    first: dict[str, Where] = {}
    for name, where in names:
        counts[name] = counts.get(name, 0) + 1
        first.setdefault(name, where)
    return {name: Found(name, count, first[name]) for name, count in counts.items()}


def folded(name: str) -> str:
    """Return a name without case, white space and compatibility forms of characters (NFKC)."""
    return "".join(unicodedata.normalize("NFKC", name).casefold().split())


def doubts(names: Mapping[str, Found]) -> list[str]:
    """Return sentences about names that may be misspelt, or that occur once."""
    close = misspelt(names.values())
    known = {rare.name for rare, _ in close}
    once = [name for name in names.values() if name.count == 1 and name.name not in known]
    sentences = []
    if close:
        pairs = [f"{rare}, close to {often.name!r} ({often.count:,})" for rare, often in close]
        sentences.append(
            f"labels that may be misspelt: {listing(pairs, SHOWN)}. Correct them, or list every "
            "label in label_names (--label-names) if they are classes of their own"
        )
    if once:
        places = [f"{name.name!r} at {name.first}" for name in once]
        sentences.append(f"labels that occur once in the training rows: {listing(places, SHOWN)}")
    return sentences


def misspelt(names: Iterable[Found]) -> list[tuple[Found, Found]]:
    """Return the names that are close to a more frequent one, each with that one."""
    by_count = sorted(names, key=lambda name: name.count)
    pairs = _variants(by_count)
    known = {rare.name for rare, _ in pairs}
    for rare in by_count[:LOOKED_AT]:
        for often in by_count[: -LOOKED_AT - 1 : -1] if rare.name not in known else ():
            rarer = often.count >= RARE * rare.count or often.count > rare.count == 1
            if rarer and _typing_error(rare.name, often.name):
                pairs.append((rare, often))
                break
    return pairs


def _variants(by_count: Sequence[Found]) -> list[tuple[Found, Found]]:
    """Return the names that differ from a more frequent one in separators or their plural."""
    often: dict[str, Found] = {}
    pairs = []
    for name in reversed(by_count):
        bare = SEPARATOR.sub("", folded(name.name))
        forms = [bare, *(form for form in _other_numbers(bare) if min(len(form), len(bare)) >= 4)]
        other = next((often[form] for form in forms if form in often), None)
        if other is not None:
            pairs.append((name, other))
        elif bare:
            often[bare] = name
    return pairs


def _other_numbers(name: str) -> Iterator[str]:
    """Yield possible English plurals and singulars of a name."""
    yield from (f"{name}s", f"{name}es", re.sub("y$", "ies", name))
    yield from (name.removesuffix("s"), name.removesuffix("es"), re.sub("ies$", "y", name))


def _typing_error(a: str, b: str) -> bool:
    """Whether two names differ by one letter, or by two in a long word."""
    a, b = folded(a), folded(b)
    words = [re.split(r"[\W_]+", name) for name in (a, b)]
    if len(words[0]) == len(words[1]):
        apart = [pair for pair in zip(*words, strict=True) if pair[0] != pair[1]]
        if len(apart) == 1:  # sun-meal and soy-meal differ in a word of three letters
            a, b = apart[0]
    shorter, longer = sorted((a, b), key=len)
    if len(shorter) < 4 or len(longer) > LONGEST or len(longer) - len(shorter) > 2:
        return False
    if re.sub(r"\d", "", a) == re.sub(r"\d", "", b):  # class1 and class2
        return False
    if longer.endswith(shorter):  # acceptable and unacceptable
        return False
    return edits(a, b) <= (1 if len(shorter) < 8 else 2)


def edits(a: str, b: str) -> int:
    """Return the optimal string alignment distance.

    It is the least number of letters inserted, deleted, replaced or swapped with the next one.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        last, before, row = before, row, [i]
        for j, other in enumerate(b, start=1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, a[i - 2]) == (b[j - 2], other):
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]
