"""`rankwright plot`: the log of a run as a picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from rankwright.cli.drawing import draw, save
from rankwright.cli.run_log import RunLog
from rankwright.errors import MethodError
from rankwright.job import RunFolder
from rankwright.job.files import check_output
from rankwright.job.paths import expanded


def plot(run: str, *, only: Sequence[str] | None, edited: bool, output: str | None) -> int:
    """Draw the log of a run, a panel for every quantity that changed.

    Args:
        run: Folder of the run.
        only: Quantities to draw; None for all.
        edited: Whether to accept files that were edited after the run wrote them.
        output: Image file; None for RUN/plot.png.

    Raises:
        MethodError: The run is damaged or has logged nothing, or the image cannot be written.
    """
    folder = RunFolder.read(run, check=not edited)
    log = _select(RunLog.of(folder), only)
    target = expanded(output) if output else folder.path / "plot.png"
    check_output(target)
    figure = draw(log)
    try:
        save(figure, target)
    except (OSError, ValueError) as error:
        raise MethodError(f"cannot write {target}: {error}") from error
    print(f"plot: {target}")
    return 0


def _select(log: RunLog, only: Sequence[str] | None) -> RunLog:
    """Return the log with these quantities only; their names may begin with `eval_`."""
    names = [name.removeprefix("eval_") for name in only or log.quantities]
    missing = [name for name in names if name not in log.quantities]
    if missing or not names:
        raise MethodError(
            f"the run logged no {' and no '.join(missing) or 'numbers'}; it logged "
            f"{', '.join(log.quantities) or 'nothing'}"
        )
    chosen = {name: log.quantities[name] for name in names}
    return dataclasses.replace(log, quantities=chosen)
