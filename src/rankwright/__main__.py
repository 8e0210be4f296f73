"""`python -m rankwright` is `rankwright`."""

import sys

from rankwright.cli import main

sys.exit(main())
