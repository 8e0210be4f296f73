"""The process of one run of a study: `python -m rankwright.worker FOLDER STARTED`.

`study.execution.processes` starts it. It ends together with its parent: at once while it imports,
and after a checkpoint once it trains.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path


def end_with_parent() -> None:
    """Send SIGTERM to this process when the other end of its standard input is closed.

    The system closes it in whatever way the parent ends. Until the trainer handles SIGTERM, the
    signal ends the process at once.
    """

    def wait() -> None:
        os.read(0, 1)  # not sys.stdin, whose lock the interpreter needs when it exits
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def main() -> int:
    """Watch the parent, import the engine, which takes seconds, and carry out the run."""
    end_with_parent()
    from rankwright.study.execution import worker

    return worker.main(Path(sys.argv[1]), time.time() - float(sys.argv[2]))


if __name__ == "__main__":
    sys.exit(main())
