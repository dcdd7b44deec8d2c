"""`python -m notebooks.push`: run folds, or prediction, on Kaggle's own GPUs; `make notebook-push V=... F=...`.

A push uploads only the text of one script, so the repository's code travels in a private dataset of its own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

import atomic
import provenance
from command_line import UserError, program
from competition import Competition, find_competition
from folder_listing import list_folder
from folds import split
from folds.csv_table import read_table
from folds.run_layout import FOLDS_FILE, JOBS_DIR
from kaggle_client import cli as kaggle_cli
from kaggle_client.credentials import find_credentials
from models.variants import parse_variants
from notebooks import on_kaggle, pack
from notebooks.pull import pull
from notebooks.record import Pushed, read_all
from notebooks.remote import Remote
from program_flags import Seconds

# Kaggle allows 50 characters; the dataset's name is this one and "-code"
_LONGEST_NAME = 45
_ANY_FOLDS = 1000
FOLDERS = {"input": "/kaggle/input", "working": "/kaggle/working", "scratch": "/tmp/segmentation"}


def kernel_name(text: str) -> str:
    """A name as Kaggle spells it: lower case, digits and dashes; a long one is cut and told apart by a digest.

    >>> kernel_name("carvana unet-mobilenetv3 fold 0,2")
    'carvana-unet-mobilenetv3-fold-0-2'
    """
    name = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    if len(name) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:6]
    return f"{name[: _LONGEST_NAME - 7].rstrip('-')}-{digest}"


def programs(facts: Competition, variant: str, fold: str, blend: str, arguments: list[str]) -> list[list[str]]:
    """The programs a job runs, one after the other: data in place, then training, or the submission of a blend."""
    where = ["--competition", facts.name, "--data", "{data}"]
    needed = [facts.sample_file, facts.test_dir] if blend else [facts.masks_dir, facts.train_dir]
    parts = facts.archives_of(facts.metadata_file, *needed)
    data = ["kaggle_client.download", *where, "--source", "{source}", "--only", ",".join(parts)]
    main = ["submit.make", "--name", blend] if blend else ["folds.train", "--variant", variant, "--fold", fold]
    return [data, [*main, *where, "--runs", "{runs}", *arguments]]


def check_job(root: Path, variant: str, fold: str, arguments: list[str]) -> None:
    """Refuse what the training program would refuse on Kaggle, before a place in the queue is spent on it.

    Args:
        root: `runs/<competition>`, whose split travels along.
        variant, fold: as the program takes them.
        arguments: further flags; among them may be another number of folds.

    Raises:
        UserError: a variant is unknown, or a fold is none.
    """
    parse_variants(variant)
    count = split.FOLDS
    if any(word.startswith("--folds") for word in arguments):
        # theirs is looked at where the split is made
        count = _ANY_FOLDS
    elif (root / FOLDS_FILE).exists():
        table = read_table(root / FOLDS_FILE, ["image"], "put a good copy back", numbers=["fold"])
        count = 1 + int(table["fold"].max())
    split.parse_folds(fold, count)


def write_kernel(folder: Path, job: dict[str, Any], metadata: dict[str, Any]) -> None:
    """Write a kernel's folder: the script with its job, and kernel-metadata.json."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path(on_kaggle.__file__).read_text(encoding="utf-8")
    place = "JOB: dict[str, Any] = {}\n"
    assert source.count(place) == 1
    # through JSON, so that whatever a name holds stays text
    text = source.replace(place, f"JOB: dict[str, Any] = json.loads({json.dumps(job)!r})\n")
    (folder / "on_kaggle.py").write_text(text, encoding="utf-8")
    atomic.write_json(folder / "kernel-metadata.json", metadata)


def write_dataset(folder: Path, ref: str, title: str, wheels: Path | None) -> None:
    """Complete a dataset's folder: its metadata, and wheels for what Kaggle's image lacks."""
    atomic.write_json(folder / "dataset-metadata.json", {"id": ref, "title": title, "licenses": [{"name": "other"}]})
    if wheels is None:
        return
    found = [wheels / name for name in list_folder(wheels, [".whl"]).names] if wheels.is_dir() else []
    if not found:
        raise UserError(f"{wheels} holds no wheel: fill it (pip download -d {wheels} ...), or leave --wheels out.")
    for wheel in found:
        shutil.copyfile(wheel, folder / wheel.name)


@program
def main(
    competition: str = "carvana",
    variant: str = "",
    fold: str = "all",
    blend: str = "",
    runs: Path = Path("runs"),
    name: str = "",
    machine: str = "NvidiaTeslaT4",
    internet: bool = True,
    wheels: Path | None = None,
    arguments: str = "",
    wait: bool = True,
    again: bool = False,
    poll_s: Seconds = 30.0,
) -> None:
    """Push a job to Kaggle, wait for it, and fetch what it made into runs as if it had been made here.

    Args:
        competition: a name from competition.py.
        variant: a name, or a comma list: what to train.
        fold: 0, or 0,2, or 0..4, or all.
        blend: predict the test set with this blend instead, and write its submission.
        runs: where the split and trained members are, and results go.
        name: of the kernel; made from the rest by default.
        machine: Kaggle's name of an accelerator (NvidiaTeslaT4, NvidiaTeslaP100 ...); empty for none.
        internet: let the kernel reach the internet, to install what its image lacks and to load pretrained weights.
        wheels: a folder of wheels to take along, for a kernel without internet.
        arguments: further flags of the program, such as '--epochs 3'.
        wait: wait and fetch; otherwise make notebook-pull does it later.
        again: push although the same kernel still runs.
        poll_s: time between two looks at its state.
    """
    facts = find_competition(competition)
    slug = kaggle_cli.find_slug(facts)
    if bool(variant) == bool(blend):
        raise UserError("say what to run: variants to train (V=..., --variant) or a blend to predict with (--blend).")
    root = runs / facts.name
    if variant:
        check_job(root, variant, fold, arguments.split())
    name = kernel_name(name or (f"{facts.name} {blend} submission" if blend else f"{facts.name} {variant} fold {fold}"))
    credentials = find_credentials()
    remote = Remote(credentials, poll_s)
    kernel = f"{kaggle_cli.username(credentials)}/{name}"
    known = [job for job in read_all(root) if job.kernel == kernel and not job.fetched]
    if known and not again and remote.is_running(kernel):
        raise UserError(
            f"{kernel} still runs on Kaggle: make notebook-pull fetches it; pushing it anew would begin it from the "
            "start (--again does)."
        )
    atomic.make_folder(root / JOBS_DIR)
    folder = atomic.temporary_beside(root / JOBS_DIR / f"push-{name}")
    try:
        files = pack.blend_files(root, blend) if blend else pack.fold_files(root)
        code = folder / "dataset" / on_kaggle.CODE_FILE
        pack.pack(code, itertools.chain(pack.code_files(), files), credentials)
        dataset = f"{kernel}-code"
        write_dataset(code.parent, dataset, f"{name} code".replace("-", " "), wheels)
        pushed = Pushed(
            kernel=kernel,
            when=datetime.now(UTC).isoformat(timespec="seconds"),
            git_commit=provenance.git_commit(),
            code_sha256=on_kaggle.sha256(code),
        )
        job = {
            "slug": slug,
            "code_sha256": pushed.code_sha256,
            "git_commit": pushed.git_commit,
            "requirements": pack.requirements(),
            "internet": internet,
            "programs": programs(facts, variant, fold, blend, arguments.split()),
            "folders": FOLDERS,
        }
        metadata = {
            "id": kernel,
            "title": name.replace("-", " "),
            "code_file": "on_kaggle.py",
            "language": "python",
            "kernel_type": "script",
            "is_private": True,
            "enable_gpu": bool(machine),
            "enable_internet": internet,
            "machine_shape": machine or None,
            "competition_sources": [slug],
            "dataset_sources": [dataset],
        }
        kaggle_cli.refuse_secrets([json.dumps([job, metadata])], credentials, doing=f"pushing the kernel {kernel}")
        write_kernel(folder / "kernel", job, metadata)
        remote.upload_dataset(code.parent, dataset, f"{pushed.git_commit[:12]} {pushed.code_sha256[:12]}")
        print(remote.push_kernel(folder / "kernel", kernel, slug))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    pushed.write(root)
    print(f"{kernel} runs on Kaggle, whatever happens here; make notebook-pull C={facts.name} fetches it later")
    if wait:
        pull(pushed, remote, runs, facts.name)


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
