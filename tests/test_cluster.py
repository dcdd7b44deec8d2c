"""The cluster as a user starts it: a fold and a submission over it have the bytes that they have here."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import provenance
from command_line import UserError
from ensemble.blend_file import SUBMISSION_FILE
from folds import offer, train, workers
from folds.offer import worker_arguments
from folds.workers import connected, run_all
from predict import blocks
from predict.members import find_members
from submit import make
from tests.dying import end_scheduler
from tests.killed_folds import check_same, kill_in_the_second_epoch, tiny_flags
from tests.synthetic_runs import save_blend

ROOT = Path(__file__).parent.parent
HERE = "127.0.0.1"


@contextmanager
def verb(log: Path, *words: str) -> Iterator[None]:
    """`make` with a verb, in the repository's folder as a user has it, until the context ends."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "THREADS" not in name}
    kept["OMP_NUM_THREADS"] = "1"
    # setup would install
    command = ["make", "-o", "setup", f"PY={sys.executable}", *words]
    with log.open("w") as file:
        process = subprocess.Popen(
            command, cwd=ROOT, env=kept, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        for ending in (signal.SIGINT, signal.SIGKILL):
            # it, and all that it has started
            with suppress(ProcessLookupError):
                os.killpg(process.pid, ending)
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """Address of a scheduler with two workers, to be reached at 127.0.0.1 only."""
    file = tmp_path / "scheduler.json"
    with verb(tmp_path / "scheduler.log", "scheduler", f"ARGS=--port 0 --host {HERE} --file {file}"):
        address = ""
        for _ in range(600):
            # missing, or not whole yet
            with suppress(FileNotFoundError, ValueError):
                address = json.loads(file.read_text())["address"]
                break
            time.sleep(0.1)
        assert address, (tmp_path / "scheduler.log").read_text()
        with verb(tmp_path / "worker.log", "worker", f"SCHEDULER={address}", f"ARGS=--processes 2 --host {HERE}"):
            with connected(address) as client:
                client.wait_for_workers(2, timeout=180)
            yield address
    for name in ("scheduler.log", "worker.log"):
        print((tmp_path / name).read_text())


@pytest.mark.slow
def test_folds_and_submission_are_the_same_over_a_cluster_though_a_worker_is_killed(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: str
) -> None:
    flags, marker = tiny_flags(monkeypatch), tmp_path / "killed"
    kill_in_the_second_epoch(monkeypatch, marker)
    train.main(**flags, data=ellipses, runs=tmp_path / "here", jobs=1)
    assert not marker.exists()
    train.main(**flags, data=ellipses, runs=tmp_path / "there", cluster=cluster)
    assert marker.exists()
    check_same(tmp_path / "there", tmp_path / "here")

    monkeypatch.setattr(blocks, "PART_IMAGES", 5)
    for runs, over in ((tmp_path / "here", ""), (tmp_path / "there", cluster)):
        save_blend(runs / "carvana", find_members(runs / "carvana", ["tiny"], 2), [1.0])
        make.main(data=ellipses, runs=runs, images=ellipses / "train", jobs=1, cluster=over)
    ours, theirs = (tmp_path / runs / "carvana" / "blend" / SUBMISSION_FILE for runs in ("here", "there"))
    assert theirs.read_bytes() == ours.read_bytes()
    assert len(gzip.decompress(ours.read_bytes()).splitlines()) == 13

    # while it is there: what it is refused for, and its end
    check_refusals(cluster, tmp_path)
    monkeypatch.setattr(workers, "_CONNECT_S", 3)
    with pytest.raises(UserError, match=r"has ended: .*make scheduler"):
        list(run_all(partial(end_scheduler, cluster), lambda: [1], cluster=cluster))


def check_refusals(cluster: str, seen: Path) -> None:
    """Workers that would do something else than this process are refused."""

    def refusal(*shared: Path) -> str:
        with pytest.raises(UserError) as caught:
            list(run_all(len, lambda: ["a", "bc"], cluster=cluster, shared=shared))
        return str(caught.value)

    assert sorted(run_all(len, lambda: ["a", "bc"], cluster=cluster, shared=[seen], alone=True)) == [1, 2]
    assert "does not see /nowhere" in refusal(seen, Path("/nowhere"))
    # no CPU computes in it
    with pytest.raises(UserError, match="does not compute in fp16 itself"):
        list(run_all(len, lambda: ["a", "bc"], cluster=cluster, shared=[seen], precisions={"fp16"}))
    assert workers.available_precisions(cluster) == workers.available_precisions()
    versions = provenance.versions()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(provenance, "versions", lambda: {**versions, "torch": "1.0+cpu"})
        assert f"has torch {versions['torch'].partition('+')[0]}, and 1.0 is here" in refusal()
        patch.setattr(workers, "_CODE", "of another commit")
        assert "runs other code" in refusal()


@dataclass(frozen=True)
class Offers:
    """Stands in for a client of a cluster whose workers offer (threads, GPUs)."""

    workers: tuple[tuple[int, int], ...]

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        assert n_workers == -1
        return {
            "workers": {
                f"w{i}": {"nthreads": threads, "resources": {"GPU": float(gpus)} if gpus else {}}
                for i, (threads, gpus) in enumerate(self.workers)
            }
        }


@pytest.mark.parametrize(
    ("offers", "gpus", "alone", "answer"),
    [
        ([(1, 0), (1, 0)], 1, True, {}),
        ([(8, 0)], 1, False, {}),
        ([(8, 0)], 1, True, "8 folds in one process"),
        # a worker without GPUs is given nothing to do where others have some
        ([(8, 0), (1, 1)], 1, True, {"resources": {"GPU": 1}}),
        ([(4, 4)], 4, True, {"resources": {"GPU": 4}}),
        ([(4, 4)], 2, True, "2 folds in one process"),
        ([(1, 1), (1, 1)], 2, True, r"no worker of c has 2 GPUs.*--gpus 2"),
        ([(1, 0)], 2, True, {}),
    ],
)  # fmt: skip
def test_a_task_is_given_what_it_needs(
    offers: list[tuple[int, int]], gpus: int, alone: bool, answer: dict[str, Any] | str
) -> None:
    client = Offers(tuple(offers))
    if isinstance(answer, dict):
        assert workers.check_room(client, "c", gpus, alone) == answer
    else:
        with pytest.raises(UserError, match=answer):
            workers.check_room(client, "c", gpus, alone)


def test_a_machine_offers_its_gpus_or_else_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    def offered(processes: int = 0, gpus: int = 1) -> tuple[str, str]:
        words = worker_arguments("tcp://s:8786", processes, gpus, "")
        resources = words[words.index("--resources") + 1] if "--resources" in words else ""
        assert words[words.index("--nthreads") + 1] == "1"
        return words[words.index("--nworkers") + 1], resources

    monkeypatch.setattr(offer, "core_count", lambda: 6)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert (offered(), offered(2)) == (("6", ""), ("2", ""))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert (offered(), offered(2), offered(gpus=2)) == (("4", "GPU=1"), ("2", "GPU=1"), ("2", "GPU=2"))
    for processes, gpus in ((5, 1), (0, 5), (-1, 1), (1, 0)):
        with pytest.raises(UserError):
            offered(processes, gpus)


def test_a_scheduler_that_is_not_there_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "_CONNECT_S", 0.2)
    with pytest.raises(UserError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:1 .*make scheduler"):
        list(run_all(print, lambda: [1], cluster="tcp://127.0.0.1:1"))
    for scheduler, sentence in (("", "SCHEDULER=tcp://host:8786"), ("tcp://127.0.0.1:1", "make scheduler")):
        with pytest.raises(SystemExit, match=sentence):
            offer.main(scheduler)
