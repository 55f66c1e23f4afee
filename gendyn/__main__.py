"""`python -m gendyn` is `gendyn`."""

import sys

from gendyn.cli import main

sys.exit(main())
