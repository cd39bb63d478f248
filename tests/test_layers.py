"""Which part may import which: the layers of the source tree, checked by its imports."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LAYERS = ("codec", "models", "stream", "tui")

# (modules, what they may not import, what they may all the same)
RULES = [
    ("codec", ("stream", "tui", "argparse"), ()),
    ("codec", ("models",), ("models.folder",)),
    ("models", ("stream", "tui", "argparse"), ()),
    ("stream", ("tui", "argparse"), ()),
    ("stream.link", ("stream.audio", "stream.call", "stream.bench"), ()),
    ("stream.audio", ("stream.link", "stream.call", "stream.bench"), ()),
    ("stream.call", ("stream.bench",), ()),
    ("codec", ("sounddevice", "zmq", "textual", "rich"), ()),
    ("models", ("sounddevice", "zmq", "textual", "rich.progress"), ()),
    ("stream", ("textual", "rich.progress"), ()),
]
# (layer, most parts, most arrows between its parts)
SIZES = [("codec", 13, 30), ("stream", 6, 10)]


def modules() -> dict[str, Path]:
    """Every module of the product by its dotted name."""
    found = {}
    for layer in LAYERS:
        for path in sorted((ROOT / layer).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = path
    return found


MODULES = modules()


def imports(path: Path) -> Iterator[str]:
    """Dotted names that a file imports anywhere, in functions and for types too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else str(node.module)


def within(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(("package", "forbidden", "allowed"), RULES)
def test_imports_point_one_way(
    package: str, forbidden: tuple[str, ...], allowed: tuple[str, ...]
) -> None:
    wrong = [
        f"{module} imports {name}"
        for module, path in MODULES.items()
        if within(module, package)
        for name in imports(path)
        if any(within(name, other) for other in forbidden)
        and not any(within(name, other) for other in allowed)
    ]
    assert not wrong, "\n".join(wrong)


def parts_of(layer: str) -> dict[str, set[str]]:
    """The parts of a layer, each a file or folder beneath it, and the parts that each imports."""

    def part(name: str) -> str:
        return name.split(".")[1] if "." in name else ""

    graph: dict[str, set[str]] = {}
    for module, path in MODULES.items():
        if within(module, layer) and part(module):
            targets = {part(name) for name in imports(path) if within(name, layer)}
            graph.setdefault(part(module), set()).update(targets - {"", part(module)})
    return graph


@pytest.mark.parametrize(("layer", "most_parts", "most_arrows"), SIZES)
def test_parts_are_few_and_depend_one_way(layer: str, most_parts: int, most_arrows: int) -> None:
    graph = parts_of(layer)
    TopologicalSorter(graph).prepare()  # raises CycleError
    assert len(graph) <= most_parts, sorted(graph)
    arrows = [f"{a} -> {b}" for a, targets in sorted(graph.items()) for b in sorted(targets)]
    assert len(arrows) <= most_arrows, "\n".join(arrows)


def test_help_loads_no_heavy_library() -> None:
    code = (
        "import sys\n"
        "from tui.cli import build_parser\n"
        "build_parser().format_help()\n"
        "heavy = ('numpy', 'torch', 'numba', 'librosa', 'textual', 'zmq', 'sounddevice')\n"
        "print([name for name in heavy if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "[]\n"


def test_a_search_loads_no_computer_algebra(tmp_path: Path) -> None:
    clip = ROOT / "tests" / "clips" / "librispeech-672.flac"
    command = ["encode", "--iterations", "1", str(clip), str(tmp_path / "talk.sotto")]
    code = (
        f"import sys\nfrom tui.cli import main\nprint(main({command!r}), 'sympy' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout == "0 False\n"
