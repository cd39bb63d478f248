"""What a model folder says about itself, read without loading a network.

Everything in a folder may come from elsewhere: only regular files are opened, and of bounded size,
so that neither a pipe nor a device nor a file of gigabytes takes the place of a model.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

WEIGHTS = Path(__file__).parent / "weights"
DESCRIPTION = "model.json"
MAX_DESCRIPTION_BYTES = 1 << 20


def check_file(path: Path, most: int) -> None:
    """Raise OSError if a file cannot be read, ValueError if it is none of at most `most` bytes."""
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path.name} is not a regular file")
    if found.st_size > most:
        raise ValueError(f"{path.name} is larger than any such model file may be")
    with path.open("rb"):
        pass  # safetensors would call a file that may not be read a missing one


def read_description(path: Path) -> dict[str, Any]:
    """What a JSON description says. Raises OSError, or ValueError when it is none or too large."""
    check_file(path, MAX_DESCRIPTION_BYTES)
    description = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(description, dict):
        raise ValueError(f"{path.name} holds no description")
    return description


def shipped_id(model: str) -> str | None:
    """The id of the shipped model of that name; None if it is not installed or not readable."""
    try:
        return str(read_description(WEIGHTS / model / DESCRIPTION)["model_id"])
    except (OSError, LookupError, ValueError, RecursionError):
        return None
