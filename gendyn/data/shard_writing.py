"""One file of records, whole or absent."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array_record.python.array_record_module import ArrayRecordWriter


@contextlib.contextmanager
def shard_writer(path: Path) -> Iterator[tuple[ArrayRecordWriter, Path]]:
    """A writer to a temporary file, which is removed unless the caller closes and renames it.

    Raises:
        OSError: of the disk, with the name of the shard.
    """
    from array_record.python.array_record_module import ArrayRecordWriter

    temporary = path.parent / f".{path.name}.tmp"
    writer = ArrayRecordWriter(str(temporary), "group_size:1,uncompressed")
    try:
        yield writer, temporary
    except RuntimeError as error:
        if writer.ok():
            raise
        codes = (code for code in errno.errorcode if os.strerror(code) in str(error))
        code = next(codes, errno.EIO)
        hint = "the shards before it are whole; make room and run the same command again to go on"
        raise OSError(code, f"{os.strerror(code)}; {hint}", str(path)) from error
    finally:
        with contextlib.suppress(RuntimeError):
            writer.close()
        temporary.unlink(missing_ok=True)
