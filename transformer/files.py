"""Files that are written whole or not at all.

Chapter: Words into numbers
Exported from chapters/10_words.md; edit it there, not here.
"""

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["write_whole"]


def write_whole(path: str | Path, write: Callable[[Path], object]) -> None:
    """Let `write` fill a file, which gets its name `path` only when it is whole."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        part.touch()
        readable_by = part.stat().st_mode  # for whom a new file is, on this machine
        write(part)
        part.chmod(readable_by)  # some libraries make theirs for the owner alone
        with part.open("r+b") as file:
            os.fsync(file.fileno())  # wait until it is on the disk
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
