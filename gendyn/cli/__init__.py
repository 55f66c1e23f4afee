"""The command line: one thin file per command.

`gendyn COMMAND --help` is complete. What goes wrong is said in one sentence, with a non-zero exit, before anything
expensive starts; GENDYN_TRACEBACK=1 shows where it happened.
"""

from gendyn.cli.main import main

__all__ = ["main"]
