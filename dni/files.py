"""Files that are whole at any moment: the old one, or the new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO


@contextmanager
def written_whole(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """A file to write to, which takes its name when the ``with`` block ends well.

    What had the name before is untouched until then, whatever ends the block: an error, Ctrl-C, a
    kill or a loss of power.

    Args:
        path: The name; its folder is there.

    Raises:
        OSError: It cannot be written.
        KeyboardInterrupt: Ctrl-C, also where the writer has raised an error over it.

    Example:
        >>> import tempfile
        >>> file = Path(tempfile.mkdtemp()) / "a.bin"
        >>> with written_whole(file) as new:
        ...     _ = new.write(b"whole")
        ...     file.exists()
        False
        >>> file.read_bytes()
        b'whole'
    """
    path = Path(path)
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with draft.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        _sync_folder(path.parent)
    except RuntimeError as err:
        # Ctrl-C amid torch.save: closing its archive raises over the interrupt.
        if isinstance(err.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from err
        raise
    finally:
        with suppress(OSError):
            draft.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Have the file's new name on the disk too; not every file system has folders to sync."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
