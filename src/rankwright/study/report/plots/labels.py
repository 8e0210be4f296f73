"""Placing of names beside dots: no name covers another name or a dot, or leaves the plot."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean

from rankwright.study.report.plots.panel import BOTTOM, LEFT, WIDTH, Label, Place

LETTER, ASCENT, DESCENT = 7.0, 12, 4
"""Width of a character and height above and below the baseline, in pixels, at a size of 11 px.

The width is that of DejaVu Sans and Verdana. The height is that of Noto Sans (15 px) and 1 px for
browsers that round both heights up to whole pixels of a scaled plot.
"""
LINE = ASCENT + DESCENT
_DOT = 5.0
"""Half the width of a dot."""
_NEAR = 9.0
"""Distance up to which a name needs no leader line to its dot."""
_COLUMNS = (14, 34, 54, 84, 124, 184)
"""Distances to the left and right at which to look for room, if there is none beside the dot."""
_ROWS = 14
"""Number of lines above and below the dot in which to look for room."""
_CROSSING = 40.0
"""Cost of a leader line that crosses a name, a dot or another line, in pixels of distance."""

Box = tuple[float, float, float, float]
"""Left, top, right, bottom."""
Segment = tuple[Place, Place]


def place_labels(dots: Sequence[Place], texts: Sequence[str]) -> list[Label]:
    """Place a text beside every dot, or at the end of a thin line from it.

    From the middle of the plot outwards, each text takes the place that is nearest and whose line
    crosses the least. A text for which a crowded plot has no room is left out.

    Args:
        dots: Places of the dots.
        texts: Texts in the order of the dots.
    """
    middle = fmean(y for _, y in dots)
    plot = _Plot([(x - _DOT, y - _DOT, x + _DOT, y + _DOT) for x, y in dots])
    for (x, y), text in sorted(zip(dots, texts, strict=True), key=lambda d: abs(d[0][1] - middle)):
        plot.add((x, y), text)
    return plot.labels


@dataclass
class _Plot:
    """The dots, and the names and lines placed so far."""

    dots: list[Box]
    names: list[Box] = field(default_factory=list)
    lines: list[Segment] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)

    def add(self, dot: Place, text: str) -> None:
        """Place one text if there is room."""
        free = [
            (self._cost(dot, box), box)
            for box in _propose_boxes(dot, LETTER * len(text))
            if _is_inside(box) and not any(_overlap(box, o) for o in (*self.dots, *self._spaced))
        ]
        if not free:
            return
        _, box = min(free, key=lambda found: found[0])
        line = _lead(dot, box)
        self.names.append(box)
        self.lines.extend([line] if _is_far(line) else [])
        self.labels.append(_make_label(line, box, text))

    @property
    def _spaced(self) -> list[Box]:
        """The boxes of names, with room for a space before and after."""
        return [(box[0] - LETTER, box[1], box[2] + LETTER, box[3]) for box in self.names]

    def _cost(self, dot: Place, box: Box) -> float:
        line = _lead(dot, box)
        crossed = sum(_meets(other, box) for other in self.lines)
        if not _is_far(line):
            return _CROSSING * crossed
        crossed += sum(_meets(line, name) for name in self.names)
        crossed += sum(_meets(line, other) for other in self.dots if not _contains(other, dot))
        crossed += sum(_cross(line, other) for other in self.lines)
        return _CROSSING * crossed + math.dist(*line)


def box_of(label: Label) -> Box:
    """Return the box that a label takes."""
    width = LETTER * len(label.text)
    left = label.x - width * {"start": 0.0, "middle": 0.5, "end": 1.0}[label.anchor]
    return left, label.y - ASCENT, left + width, label.y + DESCENT


def _propose_boxes(dot: Place, width: float) -> Iterator[Box]:
    """Yield boxes for a text of that width, the nearest first."""
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


def _lead(dot: Place, box: Box) -> Segment:
    """Return the line from a dot to the nearest place of a box."""
    x, y = dot
    return dot, (min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3]))


def _is_far(line: Segment) -> bool:
    return math.dist(*line) > _NEAR


def _make_label(line: Segment, box: Box, text: str) -> Label:
    x = line[0][0]
    leader = line if _is_far(line) else None
    baseline = round(box[3] - DESCENT, 2)
    if box[0] >= x:
        return Label(box[0], baseline, text, "start", leader)
    if box[2] <= x:
        return Label(box[2], baseline, text, "end", leader)
    return Label((box[0] + box[2]) / 2, baseline, text, "middle", leader)


def _contains(box: Box, place: Place) -> bool:
    return box[0] <= place[0] <= box[2] and box[1] <= place[1] <= box[3]


def _is_inside(box: Box) -> bool:
    return box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _meets(line: Segment, box: Box) -> bool:
    """Return whether a line runs through a box, which is whether it crosses a diagonal."""
    left, top, right, bottom = box
    return _cross(line, ((left, top), (right, bottom))) or _cross(
        line, ((left, bottom), (right, top))
    )


def _cross(one: Segment, other: Segment) -> bool:
    (a, b), (c, d) = one, other
    return _side(a, b, c) * _side(a, b, d) < 0 and _side(c, d, a) * _side(c, d, b) < 0


def _side(a: Place, b: Place, c: Place) -> float:
    """Return a number that is positive on one side of the line from a to b, else negative."""
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])
