"""The page `docs/combinations.md`: the results of `combinations`, rendered and parsed."""

from __future__ import annotations

import re
from collections.abc import Iterator

from rankwright.job.combinations import Pair

_HEAD = """\
# Combinations

Which part can be plugged onto which method: `LoRA().with_parts(init=Olora())` in Python,
`--method lora --init olora` on the command line. [Combining parts](guides/combining.md) says how
they are put together.

Found by trying: `rankwright parts probe --output docs/combinations.md`. Every method is trained for
a few steps on a tiny model with every named part, both with their defaults.

- yes: a fresh adapter is the base model, and so is the disabled one after training; plain PEFT
  loads what is saved and gives the same logits; a resumed run ends at the same bits.
- its own: the method has that part already, and its fields are the method's.
- taken: the method fills the slot with another part. Start from one that leaves it open.
- no: refused before training, for the reason with that number below."""


def render_page(pairs: list[Pair]) -> str:
    """Return the results as a Markdown page."""
    reasons = list(dict.fromkeys(pair.reason for pair in pairs if pair.reason))
    tables = [
        "\n".join(_table(slot, [pair for pair in pairs if pair.slot == slot], reasons))
        for slot in dict.fromkeys(pair.slot for pair in pairs)
    ]
    notes = "\n".join(f"{number}. {reason}" for number, reason in enumerate(reasons, start=1))
    return "\n\n".join([_HEAD, *tables, f"## Why not\n\n{notes}"]) + "\n"


def parse_page(page: str) -> list[Pair]:
    """Return the results on a page of `render_page`, in no particular order."""
    reasons = dict(re.findall(r"^(\d+)\. (.+)$", page, flags=re.MULTILINE))
    found = []
    for slot, table in re.findall(r"^## (\w+)\n\n((?:\|.*\n)+)", page, flags=re.MULTILINE):
        (_, *names), _, *rows = (
            [c.strip() for c in r.split("|")[1:-1]] for r in table.splitlines()
        )
        for method, *cells in rows:
            for name, cell in zip(names, cells, strict=True):
                verdict, _, number = cell.rstrip(")").partition(" (")
                found.append(Pair(method, slot, name, verdict, reasons.get(number, "")))
    return found


def _table(slot: str, pairs: list[Pair], reasons: list[str]) -> Iterator[str]:
    columns = list(dict.fromkeys(pair.part for pair in pairs))
    cells = {(pair.method, pair.part): _cell(pair, reasons) for pair in pairs}
    yield f"## {slot}\n"
    yield f"| method | {' | '.join(columns)} |"
    yield f"| --- |{' --- |' * len(columns)}"
    for method in dict.fromkeys(pair.method for pair in pairs):
        yield f"| {method} | {' | '.join(cells[method, part] for part in columns)} |"


def _cell(pair: Pair, reasons: list[str]) -> str:
    number = f" ({reasons.index(pair.reason) + 1})" if pair.reason else ""
    return pair.verdict + number
