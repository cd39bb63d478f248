"""Corpora on Ray: the same outputs as without, whatever dies."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.workers.pool import spread
from tests.corpus_jobs import done, squares
from tests.test_corpora import NAMES, code, corpus, lines, outputs, run_both, speech, stop
from tui.cli import main
from tui.corpora.options import ray_address
from tui.corpora.pools import on_ray

# Not imported: Ray reads some of its settings then, and once only.
if importlib.util.find_spec("ray") is None:
    pytest.skip("ray is not installed", allow_module_level=True)

__all__ = ["corpus", "speech"]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's workers find the jobs of these tests, as this process does by pytest's settings."""
    root = str(Path(__file__).resolve().parents[1])
    known = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(part for part in (root, known) if part))


def test_addresses_are_told_from_files() -> None:
    for address in ("auto", "local", "10.0.0.1:6379", "[fe80::1]:6379", "head.example:6379"):
        assert ray_address(address) == address
    for name in ("out", "DIR/", "a:b", "ray://head:10001", "head", ""):
        with pytest.raises(argparse.ArgumentTypeError):
            ray_address(name)


def test_a_cluster_codes_every_file_once(corpus: Path, capfd) -> None:
    """Though one kills its worker, and another is bad; and what is done stays so."""
    Path("in/2.wav").write_text("bad")
    Path("in/5.wav").write_text("die")
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert code(ray="local") == 1
    assert handlers == [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert "RAY_AUTH_TOKEN" not in os.environ
    told = capfd.readouterr()
    # Nothing of Ray's: the lines are the job's, and the list of what failed.
    assert sorted(line for line in told.err.splitlines() if "is turned" not in line) == [
        "sotto: 1 of 9 files failed", "sotto: in/2.wav is bad",
    ]  # fmt: skip
    names = [name for name in NAMES if name != "2.sotto"]
    assert sorted(told.out.splitlines()) == sorted(f"made {Path(name).name}" for name in names)
    assert sorted(outputs()) == names
    assert sorted(each["output"] for each in lines() if not each["error"]) == names
    assert len(lines()) == 9
    assert done(corpus / "log").count("5.wav") == 2

    begun = len(done(corpus / "log"))
    Path("in/2.wav").write_text("good")
    assert code() == 0
    assert len(done(corpus / "log")) == begun + 1
    found = outputs()
    assert code(output="alone") == 0
    assert outputs("alone") == found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
def test_a_driver_that_was_stopped_goes_on(
    corpus: Path, how: signal.Signals, status: int, capsys
) -> None:
    assert stop(how, "after", "local") == status
    assert len(lines()) == 4
    assert code(".wav", ray="local") == 0
    assert "4 of 9 files had been done" in capsys.readouterr().err
    names = [name.replace(".sotto", ".wav") for name in NAMES]
    assert sorted(path for path in outputs() if not path.endswith(".part")) == names
    assert sorted(each["output"] for each in lines()) == names


@pytest.mark.slow
def test_a_cluster_writes_the_bytes_of_one_process(speech: Path, capsys) -> None:
    run_both(["encode", "in", "--iterations", "4"], "one", "many", "--ray")
    run_both(["decode", "one"], "back", "rays", "--jobs", "2", "--ray")


@pytest.fixture
def two_nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a cluster of two nodes, of one processor each, on this machine."""
    ray = str(Path(sysconfig.get_path("scripts"), "ray"))
    place = tmp_path_factory.mktemp("ray")
    port = "46379"
    variables = {
        **os.environ, "RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }  # fmt: skip
    common = ["--num-cpus=1", "--object-store-memory=134217728", "--block"]
    nodes: list[subprocess.Popen[bytes]] = []
    log = place / "nodes.log"
    try:
        for options in (
            ["--head", f"--port={port}", "--include-dashboard=false"],
            [f"--address=127.0.0.1:{port}"],
        ):
            command = [ray, "start", *options, *common]
            nodes.append(_join(command, f"127.0.0.1:{port}", len(nodes) + 1, variables, log))
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(nodes):
            node.terminate()
            node.wait(60)


def _join(
    command: list[str], address: str, count: int, variables: dict[str, str], log: Path
) -> subprocess.Popen[bytes]:
    """Start a node, with which a cluster has `count` of them.

    Ray gives a node half a minute to start and then ends it, which a busy machine may not do in.
    `ray status` asks the head, and waits for it itself.
    """
    ask = [command[0], "status", f"--address={address}"]
    for _ in range(4):
        with open(log, "ab") as lines_of_ray:
            node = subprocess.Popen(
                command, env=variables, cwd=log.parent, stdin=subprocess.DEVNULL,
                stdout=lines_of_ray, stderr=lines_of_ray,
            )  # fmt: skip
        for _ in range(30):
            if node.poll() is not None:
                break
            told = subprocess.run(ask, env=variables, capture_output=True, text=True)
            if told.returncode == 0 and f"/{count}.0 CPU" in told.stdout:
                return node
        node.terminate()
        node.wait(60)
    pytest.fail(f"no {count} nodes: {log.read_text()[-2000:]}")


ON_NODES = """
import sys
from tests.corpus_jobs import MODEL, Copier, arguments
from tui.corpora import corpus
from tui.terminal.exit_status import exit_status

names = {"input": [sys.argv[1]], "output": sys.argv[2], "log": sys.argv[3]}
args = arguments(**names, ray=sys.argv[4], meet=True)
coding = corpus.Coding("copy", Copier, args, MODEL, {})
work = corpus.work_of(args, ".sotto", audio=True)
sys.exit(exit_status(lambda: corpus.code_corpus(work, coding)))
"""


@pytest.mark.slow
def test_two_nodes_share_the_work(corpus: Path, two_nodes: str) -> None:
    Path("nodes.py").write_text(ON_NODES)

    variables = {
        **os.environ, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(Path(__file__).parent.parent),
    }  # fmt: skip
    # The nodes run elsewhere; what is named here is found there.
    done = subprocess.run(
        [sys.executable, "nodes.py", "in", "out", str(corpus / "log"), two_nodes],
        env=variables, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert sorted(outputs()) == NAMES
    assert len(list((corpus / "log").glob("*.log"))) == 2


@pytest.mark.slow
def test_recordings_are_packed_on_a_cluster(speech: Path, capsys) -> None:
    Path("in/bad.wav").write_text("no audio")
    train = ["train", "speech", "--data", "in", "--stage", "prepare", "--work"]
    assert main([*train, "here", "--processes", "1"]) == 0
    here = capsys.readouterr().err
    assert main([*train, "there", "--ray"]) == 0
    assert capsys.readouterr().err.replace(f"{speech}/", "").replace("there/", "here/") == here
    assert outputs("here/data") == outputs("there/data")


@pytest.mark.slow
def test_clips_are_measured_on_a_cluster(speech: Path, capsys) -> None:
    bench = ["bench", "speech", "in", "--peers", "none", "--presets", "1k2", "--no-phones"]
    figures = []
    for options in (["here.json"], ["there.json", "--ray"]):
        assert main([*bench, "--json", *options]) == 0
        systems = json.loads(Path(options[0]).read_text())["systems"]
        figures.append(
            [(each["name"], [clip["pesq_wb"] for clip in each["clips"]]) for each in systems]
        )
    assert figures[0] == figures[1]
    assert "do several things at once" in capsys.readouterr().err


@pytest.mark.slow
def test_what_workers_give_in_order(corpus: Path) -> None:
    with on_ray("local", squares, 20, print, 2) as pool:
        assert dict(spread(pool, 20, lambda n: n)) == {n: n * n for n in range(20)}


def test_a_cluster_that_is_not_there_is_one_line(corpus: Path, capsys) -> None:
    assert main(["encode", "in", "out", "--ray", "127.0.0.1:9"]) == 1
    assert "cannot reach Ray at 127.0.0.1:9" in capsys.readouterr().err
    assert not outputs()
