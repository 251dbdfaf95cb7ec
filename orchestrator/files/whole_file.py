"""A file that is written whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path


def write_whole(file: Path, content: bytes | memoryview, draft: Path | None = None) -> None:
    """Write so that a kill or a full disk leaves the old file or the new one, never a part.

    Args:
        file: to be written.
        content: of it.
        draft: written first, beside the file; default: its name with `.tmp` behind.

    Raises:
        OSError: if it cannot be written.
    """
    draft = draft or file.with_name(f"{file.name}.tmp")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
