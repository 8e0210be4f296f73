"""The report in a headless Chromium: it renders without errors and shows the raw files' numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import made_up
import raw_files
from browser import CHROMIUM, DRIVER, Browser, browser
from rankwright.study.records.folder import StudyFolder
from rankwright.study.report import write_html
from rankwright.study.report.results import StudyResults

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER),
    reason="no browser: install Debian's chromium and chromium-driver, or Chrome with its driver",
)


@pytest.fixture(scope="module")
def page(found: StudyResults, study: StudyFolder) -> Iterator[Browser]:
    """The report, opened."""
    file: Path = write_html(found, study)
    with browser() as window:
        window.width(1280)
        window.open(file)
        yield window


def test_it_renders_without_errors_and_loads_nothing_from_the_network(page: Browser) -> None:
    assert page.log() == []
    assert page.run("return performance.getEntriesByType('resource').length") == 0
    empty = "return [...document.querySelectorAll('svg')].filter(s => s.getClientRects().length"
    assert page.run(f"{empty} && s.getBoundingClientRect().width < 20).length") == 0


def test_its_numbers_are_those_of_the_raw_files(page: Browser, study: StudyFolder) -> None:
    shown = page.run(
        "return [...document.querySelectorAll('section.task')].flatMap(s =>"
        "  [...s.querySelectorAll('.results tr[data-method]')].map(r => [s.dataset.task,"
        "    r.dataset.method, r.cells[1].innerText, Number(r.cells[1].dataset.value),"
        "    r.cells[3].innerText]))"
    )
    assert len(shown) == 3 * len(made_up.QUALITY)
    for task, method, text, value, difference in shown:
        mean, _, high = raw_files.interval(raw_files.values(study.path, task, method).values())
        scale, digits = (1, 4) if task == "e2e" else (100, 1)
        assert value == pytest.approx(mean, rel=1e-12)
        assert text.startswith(f"{scale * mean:.{digits}f} ± {scale * (high - mean):.{digits}f}")
        if method != "dora":
            by_seed = raw_files.differences(study.path, task, method, "dora")
            expected = f"{scale * by_seed.mean():+.{digits}f}".replace("-", "−")
            expected = expected[1:] if not by_seed.any() else expected
            assert difference.startswith(f"{expected} ± ")


def test_a_heading_sorts_its_table(page: Browser) -> None:
    column = (
        "return [...document.querySelector('.results').tBodies[0].rows]"
        ".map(r => Number(r.cells[5].dataset.value))"
    )
    press = "document.querySelector('.results').tHead.rows[0].cells[5].firstChild.click()"
    page.run(press)
    assert page.run(column) == sorted(page.run(column), reverse=True)
    page.run(press)
    assert page.run(column) == sorted(page.run(column))
    state = "return document.querySelectorAll('.results')[0].querySelectorAll('[aria-sort]').length"
    assert page.run(state) == 1


@pytest.mark.parametrize("width", [360, 390, 768, 1280])
def test_nothing_but_tables_is_wider_than_the_window(page: Browser, width: int) -> None:
    page.width(width)
    assert page.run("return document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("width", [390, 768, 1024, 1280])
def test_no_name_in_a_plot_covers_another_or_a_dot(page: Browser, width: int) -> None:
    """This holds in any font and at any scale; at 12 px most are as tall as the tallest at 11."""
    page.width(width)
    fonts = [
        f"{size} {family}"
        for size in ("11px", "bold 11px", "12px")
        for family in ("system-ui", "serif", "monospace", "DejaVu Sans", "Arial")
    ]
    covered = page.run(f"""
        const apart = (a, b) =>
          a.right <= b.left || b.right <= a.left || a.bottom <= b.top || b.bottom <= a.top;
        const covered = [];
        for (const plot of document.querySelectorAll(".plots.wide svg")) {{
          const names = [...plot.querySelectorAll(".name")];
          if (names.length < 7) covered.push("names are missing");
          for (const font of {fonts}) {{
            for (const name of names) name.style.font = font;
            if (!names[0].style.font) covered.push("no font: " + font);
            for (const name of names) for (const other of plot.querySelectorAll(".name, circle"))
              if (name !== other && !apart(...[name, other].map(e => e.getBoundingClientRect())))
                covered.push(`${{name.textContent}} on ${{other.textContent}} in ${{font}}`);
          }}
          for (const name of names) name.style.font = "";
        }}
        return covered;""")
    assert covered == []


def test_it_follows_the_reader_into_dark_mode(page: Browser) -> None:
    backgrounds = []
    for scheme in ("light", "dark"):
        page.scheme(scheme)
        backgrounds.append(page.run("return getComputedStyle(document.body).backgroundColor"))
    page.scheme("light")
    assert backgrounds == ["rgb(253, 253, 252)", "rgb(21, 24, 27)"]


def test_print_cuts_nothing_off_and_opens_all_details(page: Browser) -> None:
    page.scheme("dark", media="print")
    page.width(690)  # A4 less the margins, in CSS pixels
    page.run("dispatchEvent(new Event('beforeprint'))")
    folded = "return [...document.querySelectorAll('details')].filter(d => !d.open).length"
    assert page.run(folded) == 0
    assert page.run("return document.documentElement.scrollWidth") <= 690
    paper = page.run("return getComputedStyle(document.body).backgroundColor")
    assert paper == "rgb(255, 255, 255)"
    page.scheme("light")
