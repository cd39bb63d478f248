"""Model folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from codec.errors import BadInput


@contextlib.contextmanager
def new_model_folder(out: Path) -> Iterator[Path]:
    """A folder to write a model into, which becomes `out` if the block ends well.

    An existing model is replaced only then. Raises BadInput, before the block, when `out` exists
    and holds something else than a model.
    """
    if out.exists() and not (out / "model.json").is_file():
        raise BadInput(f"{out} exists and is no model folder; give another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        yield draft
        # Both may be private to who wrote them; a model is for whoever runs the codec.
        draft.chmod(0o755)
        for file in draft.iterdir():
            file.chmod(0o644)
        if out.exists():
            shutil.rmtree(out)
        draft.rename(out)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
