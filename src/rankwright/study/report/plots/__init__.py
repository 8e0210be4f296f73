"""The plots of a report, drawn as SVG by hand.

matplotlib is not used here for what a reader gains: a pointer over a dot shows its figures, colours
follow the page into dark mode and print, strips stretch with the column of their table, every plot
has a text alternative, and the report needs no optional dependency. The modules here place lines,
dots and names; `templates/plots.html.j2` writes them as SVG. A panel takes 3 kB and a page of 72
panels 0.2 s; matplotlib takes 12 kB and 18 ms a panel. Image files are drawn by `cli/drawing.py`;
both take axes and ticks from `rankwright.axis`.
"""
