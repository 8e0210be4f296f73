"""`python -m rankwright.cli`."""

import sys

from rankwright.cli import main

sys.exit(main())
