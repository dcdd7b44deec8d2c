"""The script that runs on Kaggle: unpacks the code, puts the data in place, runs the job's programs, packs what they
made. Only this file's text is uploaded with a kernel, so it needs nothing but the standard library; the code it runs
comes in an attached dataset.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

# notebooks.push writes the job here
JOB: dict[str, Any] = {}

CODE_FILE = "code.pyz"
RESULTS_FILE = "results.zip"
INVENTORY_FILE = "results.json"
# large, and made again from the rest
_LEFT_OUT = ("cache", "shards", "test.zarr", "resume", "__pycache__")
# older ones read and write other formats
_LEAST_MAJOR = {"zarr": 3}
# the image's own: another torch would not fit its drivers
_KEPT = ("torch", "torchvision", "numpy", "scipy", "pandas")


def find(root: Path, name: str) -> Path | None:
    """A file or folder of that name, at most four levels down: how deep a source is mounted has changed before."""
    for depth in range(4):
        found = sorted(root.glob("*/" * depth + name))
        if found:
            return found[0]
    return None


def sha256(path: Path) -> str:
    """Of a file, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def unpack_code(root: Path, target: Path) -> None:
    """Put the packed repository at `target`, whether Kaggle left it packed or not."""
    packed = find(root, CODE_FILE)
    if packed is not None and packed.is_file():
        if sha256(packed) != JOB["code_sha256"]:
            sys.exit("the attached code is of another version than this job: push it again in some minutes")
        with zipfile.ZipFile(packed) as archive:
            archive.extractall(target)
        return
    marker = find(root, "command_line.py")
    if marker is None:
        sys.exit("the code is not attached: push the job again in some minutes")
    shutil.copytree(marker.parent, target, dirs_exist_ok=True)


def _is_absent(module: str, requirement: str) -> bool:
    if importlib.util.find_spec(module) is None:
        return True
    least = _LEAST_MAJOR.get(module)
    return (
        least is not None and int(importlib.metadata.version(requirement.partition("==")[0]).partition(".")[0]) < least
    )


def install_missing(root: Path, scratch: Path) -> None:
    """Install what the image lacks, from attached wheels where there are some, else from the internet."""
    missing = [requirement for module, requirement in JOB["requirements"].items() if _is_absent(module, requirement)]
    if not missing:
        return
    kept = [f"{name}=={importlib.metadata.version(name)}" for name in _KEPT if importlib.util.find_spec(name)]
    constraints = scratch / "constraints.txt"
    constraints.write_text("\n".join(kept) + "\n")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--constraint", str(constraints)]
    if wheels := find(root, "*.whl"):
        command += ["--find-links", str(wheels.parent)]
    if not JOB["internet"]:
        command.append("--no-index")
    print("installing", *missing, flush=True)
    subprocess.run([*command, *missing], check=True)


def _stamps(runs: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in runs.rglob("*") if path.is_file())
    return {str(p.relative_to(runs)): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def _sign(runs: Path, names: list[str]) -> None:
    """Enter the pushed commit into the manifests: there is no checkout here to read it from."""
    for name in names:
        path = runs / name
        if path.name == "manifest.json":
            # there are no schemas here; a manifest that is damaged is refused where the results are merged
            try:
                manifest = json.loads(path.read_text())
            except ValueError:
                continue
            if isinstance(manifest, dict) and manifest.get("git_commit", "unknown") == "unknown":
                path.write_text(json.dumps({**manifest, "git_commit": JOB["git_commit"]}, indent=2) + "\n")


def pack_results(runs: Path, before: dict[str, tuple[int, int]], working: Path) -> None:
    """Pack every file that is new or changed; last, write the inventory that says the archive is whole."""
    after = _stamps(runs)
    new = [
        name
        for name, stamp in sorted(after.items())
        if before.get(name) != stamp
        and not any(part in _LEFT_OUT or part.startswith(".tmp-") for part in Path(name).parts)
    ]
    _sign(runs, new)
    with zipfile.ZipFile(working / RESULTS_FILE, "w", zipfile.ZIP_STORED) as archive:
        for name in new:
            archive.write(runs / name, name)
            if name.endswith("submission.csv.gz"):
                # where Kaggle's own button looks for it
                shutil.copyfile(runs / name, working / "submission.csv.gz")
    inventory = {"sha256": sha256(working / RESULTS_FILE), "files": len(new), "code_sha256": JOB["code_sha256"]}
    (working / INVENTORY_FILE).write_text(json.dumps(inventory))
    print(f"packed {len(new)} files", flush=True)


def main() -> None:
    """Run the job."""
    inputs, working, scratch = (Path(JOB["folders"][name]) for name in ("input", "working", "scratch"))
    code, data = scratch / "code", scratch / "data"
    unpack_code(inputs, code)
    install_missing(inputs, scratch)
    runs = code / "runs"
    runs.mkdir(exist_ok=True)
    before = _stamps(runs)
    source = find(inputs, JOB["slug"])
    if source is None:
        sys.exit(
            f"the files of {JOB['slug']} are not attached: accept the competition's rules, then push the job again"
        )
    filled = {"{data}": str(data), "{runs}": str(runs), "{source}": str(source)}
    environment = {**os.environ, "HF_HUB_OFFLINE": "0" if JOB["internet"] else "1", "NO_ALBUMENTATIONS_UPDATE": "1"}
    for words in JOB["programs"]:
        command = [sys.executable, "-m", *(filled.get(word, word) for word in words)]
        print("+", *command, flush=True)
        status = subprocess.run(command, cwd=code, env=environment, check=False).returncode
        if status:
            # folds that were finished before are worth fetching all the same
            pack_results(runs, before, working)
            sys.exit(f"{words[0]} failed with exit status {status}")
    pack_results(runs, before, working)


if __name__ == "__main__":
    main()
