"""`python -m kaggle_client.upload`: send a submission to Kaggle, once, and keep its scores; `make submit` calls it.

Whatever could have been seen before the upload is looked at before the upload: a day's few submissions are dear.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tyro

from command_line import UserError, program
from ensemble.blend_file import SUBMISSION_FILE, blend_folder
from folds.run_layout import SENT_FILE
from kaggle_client import cli as kaggle_cli
from kaggle_client.credentials import Credentials, find_credentials
from kaggle_client.fault import KaggleError, fault
from kaggle_client.sent import Sent, SentLedger
from kernels.metrics import Metric, find_metric
from program_flags import CompetitionName, DataFolder, places
from submit.check import check, sample_names
from submit.submission_file import compressed, digests, read_manifest

REFUSED_UPLOAD = "Could not submit to competition"


def listed(slug: str, credentials: Credentials) -> list[dict[str, Any]]:
    """The account's latest 200 submissions, as the client lists them: ref, description, status, scores ..."""
    words = ["competitions", "submissions", slug, "--format", "json", "--page-size", "200"]
    doing = f"listing the submissions to {slug}"
    output = kaggle_cli.patiently(lambda: kaggle_cli.run(words, credentials, doing=doing, slug=slug))
    return kaggle_cli.json_list(output)


def _arrived(entry: Sent, slug: str, credentials: Credentials) -> Sent | None:
    """The submission with what Kaggle lists of it; None where Kaggle does not have it."""
    for submission in listed(slug, credentials):
        if entry.tag in str(submission.get("description")):
            return entry.listed(submission)
    return None


def _find_arrived(entry: Sent, slug: str, credentials: Credentials) -> Sent | None:
    """As `_arrived`; where Kaggle cannot say, that is the failure."""
    try:
        return _arrived(entry, slug, credentials)
    except KaggleError as error:
        raise KaggleError(
            f"it is not known whether {entry.file} has arrived: {error} Run the same command again; it looks first and "
            "sends only what is not there.",
            error.kind,
        ) from None


def send(path: Path, entry: Sent, *, slug: str, ledger: SentLedger, credentials: Credentials) -> Sent:
    """Upload and submit a file, trying again on network loss and on a busy server, never twice.

    A try that failed without an answer may have been counted: before each further one, Kaggle's list is searched for
    the entry's tag.

    Args:
        path: the compressed submission.
        entry: its record, written to the ledger before the upload and after it.

    Raises:
        KaggleError: it was not accepted.
    """
    doing = f"submitting {path.name} to {slug}"
    words = ["competitions", "submit", slug, "-f", str(path), "-m", entry.message]
    kaggle_cli.refuse_secrets([*words, json.dumps(dataclasses.asdict(entry))], credentials, doing=doing)
    ledger.put(entry)
    for attempt in range(1, kaggle_cli.ATTEMPTS + 1):
        try:
            output = kaggle_cli.run(words, credentials, doing=doing, slug=slug, progress=True)
            if "Successfully submitted" in output:
                print(output.strip())
                entry = dataclasses.replace(entry, state="sent")
                ledger.put(entry)
                return entry
            if REFUSED_UPLOAD in output or not output.strip():
                # the client stops before it asks for the submission to be made
                raise KaggleError(
                    f"{doing} failed: the upload of its bytes did not go through; run the same command again.",
                    "busy",
                    output,
                )
            error = fault(doing, output, credentials, slug)
        except KaggleError as caught:
            error = caught
        # refused before anything was made: no need to ask
        certain = REFUSED_UPLOAD in error.output or error.kind in ("refused", "forbidden", "missing")
        if not certain and (found := _find_arrived(entry, slug, credentials)):
            print(f"{path.name} did arrive, though the answer was lost: {error}", file=sys.stderr)
            ledger.put(found)
            return found
        if not error.passing or attempt == kaggle_cli.ATTEMPTS:
            ledger.drop(entry)
            raise error
        kaggle_cli.wait(error, attempt)
    raise AssertionError("unreachable")


def _say_scores(ledger: SentLedger, slug: str, credentials: Credentials, metric: Metric) -> None:
    """Take the scores Kaggle knows into the ledger, and print them beside those of cross-validation."""
    submissions = listed(slug, credentials)
    others = []
    for submission in submissions:
        description = str(submission.get("description"))
        entry = next((e for e in ledger.entries if e.tag in description), None)
        if entry is None:
            others.append(submission)
        else:
            ledger.put(entry.listed(submission))
    if not ledger.entries and not others:
        print(f"nothing was submitted to {slug} yet")
        return
    head = f"CV {metric.label}"
    width = max(9, len(head) + 2)
    print(f"{'sent (UTC)':17}{head:>{width}}{'public':>9}{'private':>9}  {'status':10}message")
    for e in ledger.entries:
        cv = f"{e.cv_score:.5f}" if e.cv_score is not None else "-"
        scores = f"{e.public_score or '-':>9}{e.private_score or '-':>9}"
        print(f"{e.when[:16]:17}{cv:>{width}}{scores}  {e.status or e.state:10}{e.message}")
    for s in others:
        status = str(s.get("status")).rpartition(".")[2].lower()
        scores = f"{s.get('publicScore') or '-':>9}{s.get('privateScore') or '-':>9}"
        text = s.get("description") or s.get("fileName")
        print(f"{str(s.get('date'))[:16]:17}{'-':>{width}}{scores}  {status:10}{text}")


def _refuse_second(before: Sent | None, path: Path, slug: str, ledger: SentLedger, credentials: Credentials) -> None:
    """Raise UserError if the content was sent before; a send that was cut short is looked up first."""
    if before is None:
        return
    if before.state == "sending":
        print("an earlier run was cut short while it sent this file: asking Kaggle whether it arrived", file=sys.stderr)
        found = _find_arrived(before, slug, credentials)
        if found is None:
            return
        ledger.put(found)
        before = found
    score = f", public score {before.public_score}" if before.public_score else ""
    raise UserError(
        f"{path} was sent on {before.when[:16]} as {before.message!r}{score}: sending it again would only use up the "
        "day's quota (--again does it all the same)."
    )


@program
def main(
    competition: CompetitionName = "carvana",
    name: str = "blend",
    file: Path | None = None,
    data: DataFolder = None,
    runs: Path = Path("runs"),
    message: str = "",
    again: bool = False,
    dry_run: bool = False,
    scores: bool = False,
) -> None:
    """Check a submission, send it to Kaggle, and record it in runs/<competition>/sent.json.

    Args:
        name: of the blend; its runs/<competition>/<name>/submission.csv.gz is sent.
        file: another file to send instead.
        runs: where the blend is and the record is kept.
        message: shown on Kaggle; by default the blend and its cross-validation score.
        again: send even what was sent before.
        dry_run: do everything but send.
        scores: send nothing; list what was sent, with Kaggle's scores beside those of cross-validation.
    """
    facts, data, root = places(competition, data, runs)
    slug = kaggle_cli.find_slug(facts)
    credentials = find_credentials()
    metric = find_metric(facts.metric)
    ledger = SentLedger(root / SENT_FILE)
    if scores:
        _say_scores(ledger, slug, credentials, metric)
        return
    path = file or blend_folder(root, name) / SUBMISSION_FILE
    file_sha256, content_sha256 = digests(path)
    manifest: Mapping[str, Any] = read_manifest(path, file_sha256, needed=file is None) or {}
    before = ledger.find(content_sha256)
    if not again:
        _refuse_second(before, path, slug, ledger, credentials)
    names = sample_names(data, facts)
    report = check(path, competition=facts, names=names, expected=manifest.get("blend", {}).get("foreground"))
    for warning in report.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if not report.ok:
        print(report)
        raise UserError(f"{path} is not sent, because it does not pass the check: {report.first[0]}")
    packed = compressed(path)
    if packed != path:
        file_sha256, _ = digests(packed)
    cv_score = manifest.get(f"cv_{metric.name}")
    when = datetime.now(UTC)
    # the time keeps a second sending apart from the first; one that was cut short keeps its tag
    tag = before.tag if before and not again else f"[{content_sha256[:10]}-{when:%y%m%d%H%M%S}]"
    text = message or f"{path.stem if file else name}" + (
        f", CV {metric.label} {cv_score:.5f}" if cv_score is not None else ""
    )
    entry = Sent(
        content_sha256=content_sha256,
        file_sha256=file_sha256,
        tag=tag,
        state="sending",
        when=when.isoformat(timespec="seconds"),
        message=f"{text} {tag}",
        file=str(path),
        rows=manifest.get("rows"),
        blend=manifest.get("blend"),
        cv_score=cv_score,
        metric=metric.name,
        git_commit=manifest.get("git_commit"),
    )
    if dry_run:
        print(f"{packed} would be sent to {slug} as {entry.message!r}")
        return
    send(packed, entry, slug=slug, ledger=ledger, credentials=credentials)
    show = f"python -m kaggle_client.upload --competition {facts.name} --scores"
    print(f"{packed} is sent; its scores, in some minutes: {show}")


if __name__ == "__main__":
    tyro.cli(main, prog=main.command)
