"""What Kaggle has of a job: its dataset, its kernel, their states, its output; all through Kaggle's own client."""

from __future__ import annotations

import contextlib
import re
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from typing_extensions import TypedDict

from command_line import UserError, plain
from json_file import Count, Schema, extensible
from kaggle_client import cli as kaggle_cli
from kaggle_client.credentials import Credentials
from kaggle_client.fault import KaggleError, fault
from notebooks.on_kaggle import INVENTORY_FILE, RESULTS_FILE, sha256

DATASET_LIMIT_S = 900.0
_LOG_LINES = 15
_RUNNING = ("QUEUED", "RUNNING", "NEW_SCRIPT")


@extensible
class _Dataset(TypedDict):
    """What the client says of a dataset."""

    status: str
    current_version_number: Count | None


@extensible
class _Inventory(TypedDict):
    """What a job says of its results, once they are whole."""

    sha256: str


@extensible
class _LogEntry(TypedDict):
    """What a job printed at one time."""

    data: str


_DATASET = Schema(_Dataset, "run the same command again")
_INVENTORY = Schema(_Inventory, "run the same command again")
_LOG = Schema(list[_LogEntry], "look at the log on Kaggle")


@dataclass(frozen=True)
class Remote:
    """An account on Kaggle.

    Attributes:
        credentials: of the account.
        poll_s: time between two looks at a state.
    """

    credentials: Credentials
    poll_s: float = 30.0

    def _run(self, *words: str, doing: str, progress: bool = False, slug: str | None = None) -> str:
        return kaggle_cli.patiently(
            lambda: kaggle_cli.run(words, self.credentials, doing=doing, slug=slug, progress=progress)
        )

    def _dataset(self, ref: str) -> tuple[str, int] | None:
        """Status and version of a dataset; None where there is none."""
        doing = f"looking for the dataset {ref}"
        try:
            output = self._run("datasets", "status", ref, "--format", "json", doing=doing)
        except KaggleError as error:
            # a private one of another account and one that never was look alike
            if error.kind in ("missing", "forbidden"):
                return None
            raise
        try:
            # warnings may precede it
            value = _DATASET.parse(output[max(output.find("{"), 0) :])
        except ValueError:
            raise fault(doing, output, self.credentials) from None
        return value["status"], value["current_version_number"] or 0

    def upload_dataset(self, folder: Path, ref: str, notes: str) -> None:
        """Make a private dataset of a folder, or a new version of it, and wait until kernels can use it.

        Raises:
            KaggleError: it was refused, or was not ready in time.
        """
        before = self._dataset(ref)
        doing = f"uploading the dataset {ref}"
        words = ["datasets", "create", "-p", str(folder), "--keep-tabular"]
        if before:
            words = ["datasets", "version", "-p", str(folder), "-m", notes, "--keep-tabular"]
        output = self._run(*words, doing=doing, progress=True)
        # the client leaves out a file that it could not upload, makes the dataset without it, and exits 0
        if "Upload unsuccessful" in output:
            raise KaggleError(
                f"{doing} failed: a file did not go through; run the same command again.", "other", output
            )
        if "is already in use" in output:
            raise KaggleError(f"{doing} failed: its title is taken; choose another name (--name).", "other", output)
        if not re.search(r"Dataset (version )?is being created", output):
            raise fault(doing, output, self.credentials)
        deadline = time.monotonic() + DATASET_LIMIT_S
        while time.monotonic() < deadline:
            now = self._dataset(ref)
            if now and now[0] == "ready" and now[1] > (before[1] if before else 0):
                return
            if now and now[0] == "failed":
                raise KaggleError(f"{doing} failed: Kaggle could not process it; run the same command again.", "other")
            time.sleep(self.poll_s)
        raise KaggleError(f"{doing} took longer than {DATASET_LIMIT_S:.0f} s: run the same command again.", "other")

    def push_kernel(self, folder: Path, ref: str, slug: str) -> str:
        """Push a kernel, which starts it; returns what the client said.

        Raises:
            KaggleError: it was refused, or was started without one of its sources.
        """
        doing = f"pushing the kernel {ref}"
        output = self._run("kernels", "push", "-p", str(folder), doing=doing, slug=slug)
        if match := re.search(r"not valid (dataset|competition|kernel) sources .*?: (.*)", output):
            hint = (
                f"accept the rules at https://www.kaggle.com/c/{slug}/rules"
                if match[1] == "competition"
                else "push it again"
            )
            raise KaggleError(f"{doing} failed: it runs without its {match[1]} {match[2]}; {hint}.", "other", output)
        if "successfully pushed" not in output:
            said = output.strip().rpartition("Kernel push error: ")[2].rstrip(".")
            raise KaggleError(f"{doing} failed: Kaggle said {said!r}; see to that and push it again.", "other", output)
        return output.strip()

    def status(self, ref: str) -> tuple[str, str]:
        """(state, failure message) of a kernel; states as QUEUED, RUNNING, COMPLETE, ERROR, CANCEL_ACKNOWLEDGED."""
        output = self._run("kernels", "status", ref, doing=f"asking for the status of {ref}")
        match = re.search(r'has status "(?:KernelWorkerStatus\.)?(\w+)"', output)
        if match is None:
            raise fault(f"asking for the status of {ref}", output, self.credentials)
        message = re.search(r'Failure message: "(.*)"', output)
        return match[1].upper(), message[1] if message else ""

    def is_running(self, ref: str) -> bool:
        """Whether a kernel waits or runs."""
        return self.status(ref)[0] in _RUNNING

    def wait(self, ref: str) -> None:
        """Wait until a kernel ends, saying its state whenever that changes.

        Raises:
            UserError: it did not end well; the message has the reason and the end of its log goes before it.
        """
        last, start = "", time.monotonic()
        while True:
            state, message = self.status(ref)
            if state != last:
                print(f"{ref}: {state.lower()} ({(time.monotonic() - start) / 60:.0f} min)", file=sys.stderr)
            last = state
            if state == "COMPLETE":
                return
            if state not in _RUNNING:
                for line in self.log(ref)[-_LOG_LINES:]:
                    print(line, file=sys.stderr)
                reason = f" ({message})" if message else ""
                raise UserError(
                    f"{ref} ended on Kaggle with status {state.lower()}{reason}; its log ends as above: see to that "
                    "and push it again."
                )
            time.sleep(self.poll_s)

    def log(self, ref: str) -> list[str]:
        """Lines of a kernel's log, as far as there is one."""
        with tempfile.TemporaryDirectory() as folder:
            # a pattern that no name fits: the log alone
            words = ("kernels", "output", ref, "-p", folder, "--file-pattern", r"^\b$")
            try:
                self._run(*words, doing=f"fetching the log of {ref}")
            except KaggleError as error:
                return [str(error)]
            text = "".join(path.read_text(errors="replace") for path in Path(folder).glob("*.log"))
        # Kaggle keeps it as JSON, one entry a line
        with contextlib.suppress(ValueError):
            text = "".join(entry["data"] for entry in _LOG.parse(text))
        return self.credentials.redact(plain(text)).splitlines()

    def fetch(self, ref: str, folder: Path) -> Path:
        """Download a kernel's results into an empty folder; returns the archive, whole.

        Raises:
            KaggleError: there are none, or they came damaged each time.
        """
        doing = f"fetching the output of {ref}"
        pattern = rf"^({re.escape(RESULTS_FILE)}|{re.escape(INVENTORY_FILE)})$"

        def once() -> Path:
            shutil.rmtree(folder, ignore_errors=True)
            words = ["kernels", "output", ref, "-p", str(folder), "--force", "--page-size", "200"]
            kaggle_cli.run([*words, "--file-pattern", pattern], self.credentials, doing=doing, progress=True)
            archive, inventory = folder / RESULTS_FILE, folder / INVENTORY_FILE
            if not inventory.exists() or not archive.exists():
                raise KaggleError(f"{doing} failed: it made no {RESULTS_FILE}; look at its log on Kaggle.", "other")
            # the client writes whatever it is answered, an error page too
            try:
                whole = _INVENTORY.read(inventory)["sha256"] == sha256(archive)
            except UserError:
                whole = False
            if not whole:
                raise KaggleError(
                    f"{doing} failed: {RESULTS_FILE} came damaged; run the same command again.", "network"
                )
            return archive

        return kaggle_cli.patiently(once)
