"""Dispatch, and how errors are said."""

from __future__ import annotations

import difflib
import importlib
import keyword
import logging
import os
import sys
import time
import warnings

COMMANDS = {
    "train": "train an experiment file, or go on training it",
    "sample": "draw samples from a run",
    "evaluate": "measure a run's samples beside real data",
    "statistics": "measure a run's model for DPM-Solver-v3",
    "tune": "fit a sampler of few calls to a run's model",
    "study": "compare samplers, grids and numbers of calls on a run",
    "reflow": "straighten a run's flow by training on its own pairs, and distil it",
    "coordcheck": "check that an experiment's features move alike at every width",
    "transfer": "find hyperparameters at one size, and see whether they serve the others",
    "info": "what a run is made of",
    "checkpoint": "list, verify, prune and convert the checkpoints of a run",
    "import": "make a run of a public checkpoint, without executing it",
    "pack": "turn images or arrays into shards for training",
    "export": "write a run's network under its published names",
}
"""Command -> one line; each is `gendyn/cli/COMMAND.py` (import_.py for import) with `run(argv) -> exit status`."""

EXPECTED = (ValueError, OSError)
"""Errors that mean bad input or a full disk: their message is the sentence the user needs."""


def usage() -> str:
    lines = "\n".join(f"  {name:10} {text}" for name, text in COMMANDS.items())
    return f"usage: gendyn COMMAND ...\n\ncommands:\n{lines}\n\n`gendyn COMMAND --help` explains each."


def main(argv: list[str] | None = None) -> int:
    """Entry point of `gendyn`; returns the exit status."""
    argv = sys.argv[1:] if argv is None else argv
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        from gendyn import __version__

        print(f"gendyn {__version__}")
        return 0
    name, rest = argv[0], argv[1:]
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean `gendyn {near[0]}`?" if near else "."
        return fail(f"unknown command {name!r}{hint} Commands: {', '.join(COMMANDS)}.", status=2)
    _quiet()
    return run(name, rest)


def run(name: str, rest: list[str]) -> int:
    from gendyn.training.loop import Diverged

    try:
        module = f"{name}_" if keyword.iskeyword(name) else name
        return importlib.import_module(f"gendyn.cli.{module}").run(rest)
    except (*EXPECTED, Diverged) as error:
        if os.environ.get("GENDYN_TRACEBACK"):
            raise
        return _leave(fail(sentence(error)))
    except KeyboardInterrupt:
        return fail("interrupted.", status=130)


def _leave(status: int) -> int:
    """End at once where other processes wait in a collective: jax would first wait for them at its own exit."""
    jax = sys.modules.get("jax")
    if jax is None or not jax.distributed.is_initialized():
        return status
    sys.stdout.flush()
    time.sleep(1.0 + (jax.process_index() == 0))  # if all end, the coordinator last: its end is noisy for the others
    os._exit(status)


def sentence(error: Exception) -> str:
    """The error's own message; for the system's errors the file and the reason."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
    return str(error)


def fail(message: str, status: int = 1) -> int:
    print(f"gendyn: {message}", file=sys.stderr)
    return status


def _quiet() -> None:
    """Chatter of the libraries below stays below; our own warnings are one line."""
    for name in ("absl", "orbax", "jax", "etils"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.showwarning = lambda message, *args, **kwargs: print(f"gendyn: warning: {message}", file=sys.stderr)
