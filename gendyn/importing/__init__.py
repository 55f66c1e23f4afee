"""Importing: networks that others trained, from files that are not trusted.

    file --read--> Checkpoint: named tensors, wrapper, options --adopt--> RUN/ --export--> file

A pickle is a program. The public checkpoints of EDM and PFGM++ even carry the source code of their classes, which
loading them the usual way executes. Here a file is data: a small machine carries out the operations that build
values and knows no others, tensors are described before they are read, and every size is checked before memory is
taken. What is not understood is refused, by name and in one sentence. PyTorch is not needed.
"""

from gendyn.importing.limits import Limits, Refused
from gendyn.importing.reading import Checkpoint, read
from gendyn.importing.runs import adopt, export

__all__ = ["Checkpoint", "Limits", "Refused", "adopt", "export", "read"]
