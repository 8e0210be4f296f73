"""Names beside dots: none on another, on a dot, or outside its plot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rankwright.study.report.plots.panel import BOTTOM, LEFT, WIDTH, Label, Place

LETTER, ASCENT, DESCENT = 7.0, 12, 4
"""Width of a character, and what is above and below the baseline, in pixels, at a size of 11 px.

As wide as DejaVu Sans and Verdana, as tall as Noto Sans (15 px), and 1 px for a browser that
rounds both heights up to whole pixels of a plot it has scaled.
"""
LINE = ASCENT + DESCENT
_DOT = 5.0
"""Half the width of a dot."""
_NEAR = 9.0
"""A name no farther from its dot needs no line to it."""
_COLUMNS = (14, 34, 54, 84, 124, 184)
"""How far to the left and to the right there is room to look for, where there is none beside."""
_ROWS = 14
"""How many lines up and down."""
_CROSSING = 40.0
"""A line across a name, a dot or another line is as bad as so many pixels of distance."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Segment = tuple[Place, Place]


def place_labels(dots: Sequence[Place], texts: Sequence[str]) -> list[Label]:
    """A text for every dot, beside it or at the end of a thin line.

    From the middle outwards, each takes the place that is nearest and whose line crosses least.
    What finds no room at all, in a plot full of names, is left out.

    Args:
        dots: Their places.
        texts: What to write, in the order of the dots.
    """
    middle = fmean(y for _, y in dots)
    plot = _Plot([(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots])
    for (x, y), text in sorted(zip(dots, texts, strict=True), key=lambda d: abs(d[0][1] - middle)):
        plot.add((x, y), text)
    return plot.labels


@dataclass
class _Plot:
    """What is placed so far."""

    dots: list[Box]
    names: list[Box] = field(default_factory=list)
    lines: list[Segment] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def add(self, dot: Place, text: str) -> None:
        """Place one text, if there is room."""
        free = [
            (self._cost(dot, box), box)
            for box in _places(dot, LETTER * len(text))
            if _inside(box) and not any(_overlap(box, o) for o in (*self.dots, *self._spaced))
        ]
        if not free:
            return
        _, box = min(free, key=lambda found: found[0])
        line = _line(dot, box)
        self.names.append(box)
        self.lines.extend([line] if _far(line) else [])
        self.labels.append(_label(line, box, text))

    @property
    def _spaced(self) -> list[Box]:
        """The names, with room for a space before and after."""
        return [(box[0] - LETTER, box[1], box[2] + LETTER, box[3]) for box in self.names]

    def _cost(self, dot: Place, box: Box) -> float:
        line = _line(dot, box)
        crossed = sum(_meets(other, box) for other in self.lines)
        if not _far(line):
            return _CROSSING * crossed
        crossed += sum(_meets(line, name) for name in self.names)
        crossed += sum(_meets(line, other) for other in self.dots if not _holds(other, dot))
        crossed += sum(_cross(line, other) for other in self.lines)
        return _CROSSING * crossed + math.dist(*line)


def box_of(label: Label) -> Box:
    """The room that a label takes."""
    width = LETTER * len(label.text)
    left = label.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor]
    return left, label.y - ASCENT, left + width, label.y + DESCENT


def _places(dot: Place, width: float) -> Iterator[Box]:
    """Boxes for a text of that width, the nearest first."""
    x, y = dot
    middle, level = x - width / 2, y - LINE / 2
    above, below = y - _DOT - 1 - LINE, y + _DOT + 1
    beside = ((x + 8, level), (x - 8 - width, level), (middle, above), (middle, below))
    askew = tuple((a, b) for b in (above, below) for a in (x + 6, x - 6 - width))
    for left, top in (*beside, *askew):
        yield left, top, left + width, top + LINE
    for row, away in itertools.product(range(-_ROWS, _ROWS + 1), _COLUMNS):
        for left in (x + away, x - away - width):
            top = level + row * LINE
            yield left, top, left + width, top + LINE


def _line(dot: Place, box: Box) -> Segment:
    """From a dot to the nearest place of a box."""
    x, y = dot
    return dot, (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))


def _far(line: Segment) -> bool:
    return math.dist(*line) > _NEAR


def _label(line: Segment, box: Box, text: str) -> Label:
    x = line[0][0]
    leader = line if _far(line) else None
    baseline = round(box[3] - DESCENT, 2)
    if box[0] >= x:
        return Label(box[0], baseline, text, "start", leader)
    if box[2] <= x:
        return Label(box[2], baseline, text, "end", leader)
    return Label((box[0] + box[2]) / 2, baseline, text, "middle", leader)


def _holds(box: Box, place: Place) -> bool:
    return box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]


def _inside(box: Box) -> bool:
    return box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _meets(line: Segment, box: Box) -> bool:
    """Whether a line runs through a box: it crosses a diagonal."""
    left, top, right, bottom = box
    return _cross(line, ((left, top), (right, bottom))) or _cross(
        line, ((left, bottom), (right, top))
    )


def _cross(one: Segment, other: Segment) -> bool:
    (a, b), (c, d) = one, other
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Place, b: Place, c: Place) -> float:
    """Positive on one side of the line from a to b, negative on the other."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
