"""The record of what was sent to Kaggle: `runs/<competition>/sent.json`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import atomic
from json_file import Schema, Share, closed


@closed
@dataclass(frozen=True)
class Sent:
    """One submission.

    Attributes:
        content_sha256: of the CSV itself, so that compressing it anew does not make it another submission.
        file_sha256: of the uploaded bytes.
        tag: what marks it among the submissions Kaggle lists; it ends the message.
        state: "sending" is written before the upload, so that a killed one is known; "sent" after Kaggle has it.
        when: UTC, ISO 8601.
        message: as Kaggle shows it.
        file: its path.
        rows: of the CSV, None where no manifest said.
        blend: the fitted combination, as the manifest has it.
        cv_score: its nested cross-validation score; in the file under `cv_<metric>`.
        metric: of that score.
        git_commit: that made the file.
        ref: Kaggle's number for it.
        status, public_score, private_score: as Kaggle lists them, once known.
    """

    content_sha256: str
    file_sha256: str
    tag: str
    state: Literal["sending", "sent"]
    when: str
    message: str
    file: str
    rows: int | None = None
    blend: Any = None
    cv_score: Share | None = None
    metric: str = "dice"
    git_commit: str | None = None
    ref: int | None = None
    status: str | None = None
    public_score: str | None = None
    private_score: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Its entry in the file."""
        values = dataclasses.asdict(self)
        metric = values.pop("metric")
        return {f"cv_{metric}" if key == "cv_score" else key: value for key, value in values.items()}

    @staticmethod
    def from_json(entry: dict[str, Any]) -> Sent:
        """The submission of such an entry.

        Raises:
            ValueError: a field is unknown, missing, or of another type or range.
        """
        values = dict(entry)
        for key in [key for key in values if key.startswith("cv_")]:
            values |= {"cv_score": values.pop(key), "metric": key.removeprefix("cv_")}
        return _ENTRY.of(values)

    def listed(self, submission: dict[str, Any]) -> Sent:
        """With what Kaggle's list says of it."""
        status = submission.get("status")
        return dataclasses.replace(
            self,
            state="sent",
            ref=submission.get("ref"),
            status=str(status).rpartition(".")[2].lower() if status else None,
            public_score=submission.get("publicScore") or None,
            private_score=submission.get("privateScore") or None,
        )


def _check(entries: list[dict[str, Any]]) -> None:
    for k, entry in enumerate(entries):
        try:
            Sent.from_json(entry)
        except ValueError as error:
            raise ValueError(f"{k}.{error}") from None


_HINT = "put a good copy back, or move it away to begin a new record"
_ENTRY = Schema(Sent, _HINT)
_SENT = Schema(list[dict[str, Any]], _HINT, _check)


class SentLedger:
    """Every submission of one competition, oldest first. Each change is written at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries = [Sent.from_json(entry) for entry in _SENT.read_if_there(path) or []]

    def find(self, content_sha256: str) -> Sent | None:
        """The latest submission of that content."""
        return next((e for e in reversed(self.entries) if e.content_sha256 == content_sha256), None)

    def drop(self, entry: Sent) -> None:
        """Take back a submission that certainly did not arrive."""
        self.entries = [e for e in self.entries if e.tag != entry.tag]
        self._write()

    def put(self, entry: Sent) -> None:
        """Add a submission, or replace the one of the same tag."""
        kept = [e for e in self.entries if e.tag != entry.tag]
        self.entries = (
            [*kept, entry]
            if len(kept) == len(self.entries)
            else [entry if e.tag == entry.tag else e for e in self.entries]
        )
        self._write()

    def _write(self) -> None:
        atomic.write_json(self.path, [e.to_json() for e in self.entries])
