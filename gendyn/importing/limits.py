"""What an import may cost, and how it is refused."""

from __future__ import annotations

from dataclasses import dataclass

GIB = 2**30


class Refused(ValueError):
    """A file that is not imported, with the reason in one sentence; nothing in it was executed."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Bounds that are checked before memory is taken.

    Attributes:
        tensors: bytes of all chosen tensors together.
        structure: bytes of a pickle's own text, which public checkpoints with tensors inside keep below a gigabyte.
        operations: of a pickle; one operation makes at most one object.
        nodes: of what a pickle spells, counted as if nothing were shared.
        depth: of nesting.
        entries: files inside an archive.
        ratio: of an archive's content to its compressed size.
    """

    tensors: int = 8 * GIB
    structure: int = 4 * GIB
    operations: int = 3_000_000
    nodes: int = 10_000_000
    depth: int = 100
    entries: int = 100_000
    ratio: float = 100.0
