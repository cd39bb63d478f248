"""Writes a page: a folder that appears whole or not at all.

What a page consists of is written in its `contents.json`, with a hash of every file. A folder is
replaced if it is empty, or if all that is in it is what that file says. With --force a page also
takes a folder that holds other files: those of the same name are replaced, the others stay.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jinja2
from markupsafe import Markup

from codec.errors import BadInput
from codec.files.paths import display_name, identities, is_special, os_errors
from tui.terminal.errors import UsageError
from tui.terminal.signals import undisturbed

_HERE = Path(__file__).parent
_CONTENTS = "contents.json"
_GENERATOR = "sotto"
_MOST_FILES = 20_000  # of a page, and looked at in a folder
_MOST_CONTENTS = 8 << 20  # bytes

Name = str | os.PathLike[str]


class Site:
    """A page that is being written. Names of its files are relative, with forward slashes.

    folder: that it is written in; named: what messages call that.
    """

    def __init__(self, folder: Path, named: Name) -> None:
        self._folder, self._named = folder, named
        self._files: dict[str, str] = {}
        loader = jinja2.FileSystemLoader(_HERE / "templates")
        self._templates = jinja2.Environment(
            loader=loader, autoescape=True, undefined=jinja2.StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._templates.filters["data"] = data

    def write(self, name: str, content: bytes | str) -> None:
        """Add a file; text becomes UTF-8. Raises BadInput if the system refuses."""
        parts = PurePosixPath(name).parts
        assert name not in self._files and parts and not {"..", "/"} & set(parts), name
        if isinstance(content, str):
            content = content.encode("utf-8", "backslashreplace")
        path = self._folder.joinpath(*parts)
        with os_errors("write", Path(self._named, *parts)):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        self._files[name] = hashlib.sha256(content).hexdigest()

    def add_assets(self, *names: str) -> None:
        """Add files of the package, as assets/NAME; a folder with all that is in it."""
        for name in names:
            source = _HERE / "assets" / name
            files = sorted(source.rglob("*")) if source.is_dir() else [source]
            for file in files:
                if file.is_file():
                    relative = file.relative_to(_HERE / "assets").as_posix()
                    self.write(f"assets/{relative}", file.read_bytes())

    def render(self, template: str, **values: Any) -> None:
        """Add what a template makes of values as index.html; text in them is escaped.

        It loads the styles and scripts among the assets that were added, in their order. data: of
        plain values, what the scripts are given.
        """
        styles, scripts = (
            [name for name in self._files if name.startswith("assets/") and name.endswith(suffix)]
            for suffix in (".css", ".js")
        )
        page = self._templates.get_template(template)
        self.write("index.html", page.render(styles=styles, scripts=scripts, **values))

    def finish(self) -> None:
        """Add the list of contents."""
        contents = {"generator": _GENERATOR, "files": self._files}
        self.write(_CONTENTS, json.dumps(contents, indent=1) + "\n")


def data(values: Any) -> Markup:
    """Plain values as JSON for the inside of a <script type="application/json">."""
    text = json.dumps(values, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)


def check(
    folder: Name, inputs: Collection[Name | None] = (), outputs: Collection[Name | None] = (),
    *, force: bool = False,
) -> None:  # fmt: skip
    """Raise before the minutes a benchmark takes, if a page cannot be written to `folder`.

    inputs: what is read; outputs: the other files to be written; None stands for one not given.
    Raises UsageError if the folder is or holds one of them, and BadInput if it holds something
    else that must not be replaced, or cannot be made.
    """
    shown = display_name(folder)
    if is_special(folder):
        raise UsageError(f"a page is a folder, which {shown} cannot be")
    with os_errors("write", folder):
        final = Path(os.path.realpath(folder))
        if final.exists() and not final.is_dir():
            raise BadInput(f"cannot write {shown}: it is a file, and a page is a folder")
        if not final.parent.is_dir():
            raise BadInput(f"cannot write {shown}: there is no folder for it to be in")
        if not os.access(final.parent, os.W_OK | os.X_OK):
            raise BadInput(f"cannot write {shown}: permission denied")
        if os.path.ismount(final):
            raise BadInput(f"cannot write {shown}: another file system is mounted there")
    mine = identities(final)
    for what, names in (("read", inputs), ("written", outputs)):
        for name in names:
            if name is not None and not is_special(name) and _holds(mine, name):
                raise UsageError(
                    f"the page {shown} would replace what is {what}: {display_name(name)}"
                )
    if _holds(mine, os.getcwd()):
        raise UsageError(f"the page {shown} would replace the folder that this runs in")
    if force or not final.is_dir():
        return
    with os_errors("read", folder):
        foreign = next(_foreign(final), None)
    if foreign is not None:
        raise BadInput(
            f"cannot write {shown}: the folder is no page of sotto's, or there is more in it: "
            f"{display_name(foreign)} (--force writes the page, and leaves other files)"
        )


@contextlib.contextmanager
def new_site(folder: Name, *, force: bool = False) -> Iterator[Site]:
    """A page that appears as `folder` when the block ends without an exception.

    On any exception, KeyboardInterrupt included, what was written is removed, and what was there
    stays. Raises as `check` does.
    """
    check(folder, force=force)
    final = Path(os.path.realpath(folder))
    draft = final.parent / f".sotto-{secrets.token_hex(6)}.part"
    with os_errors("write", folder):
        draft.mkdir()
    try:
        site = Site(draft, folder)
        yield site
        site.finish()
        check(folder, force=force)
        # Between two names a page would be nowhere.
        with undisturbed(), os_errors("write", folder):
            _publish(draft, final)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _publish(draft: Path, final: Path) -> None:
    """Give a whole page its name. Foreign files of the folder that it replaces move to it."""
    if not final.is_dir():
        os.rename(draft, final)
        return
    foreign = list(_foreign(final))
    shutil.copymode(final, draft)
    old = final.parent / f".sotto-{secrets.token_hex(6)}.old"
    os.rename(final, old)
    try:
        os.rename(draft, final)
    except BaseException:
        os.rename(old, final)
        raise
    for name in foreign:
        target = final / name
        if not os.path.lexists(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            os.rename(old / name, target)
    shutil.rmtree(old)


def _foreign(folder: Path) -> Iterator[Path]:
    """What is in a folder, relative to it, and was not written as a page, or was edited since."""
    files = _contents(folder)
    seen = 0
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if os.path.islink(os.path.join(parent, name))]
        for name in (*names, *links):
            path = Path(parent, name)
            relative = path.relative_to(folder)
            known = files.get(relative.as_posix())
            seen += 1
            if known is None or path.is_symlink() or seen > _MOST_FILES or _hash(path) != known:
                yield relative


def _contents(folder: Path) -> Mapping[str, str]:
    """The hashes of the files of a page; none if the folder is no page."""
    path = folder / _CONTENTS
    try:
        if path.is_symlink() or path.stat().st_size > _MOST_CONTENTS:
            return {}
        raw = path.read_bytes()
        values = json.loads(raw)
    except (OSError, ValueError, RecursionError):
        return {}
    files = values.get("files") if isinstance(values, dict) else None
    if not isinstance(files, dict) or values.get("generator") != _GENERATOR:
        return {}
    return {**files, _CONTENTS: hashlib.sha256(raw).hexdigest()}


def _hash(path: Path) -> str:
    if not path.is_file():  # nothing that blocks when it is opened
        return ""
    with open(path, "rb") as file:
        found = hashlib.sha256()
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def _holds(folder: set[tuple[object, ...]], name: Name) -> bool:
    """Whether a file or folder is the folder with these identities, or somewhere in it."""
    path = Path(os.path.realpath(name))
    return any(folder & identities(each) for each in (path, *path.parents))
