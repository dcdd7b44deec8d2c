"""Submitting with the real Kaggle client against a stand-in server on the loopback."""

from __future__ import annotations

import gzip
import hashlib
import json
import signal
import subprocess
import threading
import zipfile
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from kaggle_client import cli as kaggle_cli
from kaggle_client import upload
from kaggle_client.credentials import Credentials, find_credentials
from tests.kaggle_server import CANARY, USER, Fault, KaggleServer, leaks

NAMES = ("00000000000a_01.jpg", "00000000000a_02.jpg", "00000000000b_01.jpg")
CSV = "img,rle_mask\n" + "".join(f"{name},1 5 1920 7\n" for name in NAMES)


@dataclass
class Desk:
    """A finished blend, credentials, and a Kaggle to send it to."""

    server: KaggleServer
    data: Path
    runs: Path
    file: Path
    capture: Callable[[], Any]

    def submit(self, **flags: Any) -> str:
        """Run the program; returns what it said as an error, empty if it succeeded."""
        try:
            upload.main(data=self.data, runs=self.runs, **flags)
        except SystemExit as end:
            assert end.code not in (0, None)
            return str(end.code)
        return ""

    def write(self, csv: str, **entries: Any) -> None:
        """Write the submission and its manifest."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_bytes(gzip.compress(csv.encode(), mtime=0))
        entries["sha256"] = hashlib.sha256(self.file.read_bytes()).hexdigest()
        (self.file.parent / "manifest.json").write_text(json.dumps(entries))

    def sent(self) -> list[dict[str, Any]]:
        """The ledger."""
        path = self.runs / "carvana" / "sent.json"
        return json.loads(path.read_text()) if path.exists() else []

    def uploaded(self) -> bytes:
        """The bytes of the newest submission."""
        return self.server.blobs[self.server.submissions[0]["token"]]


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Desk]:
    for name in ("KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_TOKEN", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    config = tmp_path / "config"
    config.mkdir()
    (config / "kaggle.json").write_text(json.dumps({"username": USER, "key": CANARY}))
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(config))
    monkeypatch.setattr(kaggle_cli, "FIRST_PAUSE_S", 0.02)
    monkeypatch.setattr(kaggle_cli, "ATTEMPTS", 2)
    data, runs = tmp_path / "data", tmp_path / "runs"
    data.mkdir()
    (data / "sample_submission.csv").write_text("img,rle_mask\n" + "".join(f"{n},1 1\n" for n in NAMES))
    with KaggleServer() as server:
        for name, value in server.environment(tmp_path / "home").items():
            monkeypatch.setenv(name, value)
        desk = Desk(server, data, runs, runs / "carvana" / "blend" / "submission.csv.gz", capfd.readouterr)
        desk.write(CSV, rows=3, cv_dice=0.99712, blend={"members": ["unet"]}, git_commit="abc123")
        yield desk
        assert leaks(server, runs, data) == []
        assert CANARY not in "".join(capfd.readouterr())


def test_submits_once_and_lists_scores(desk: Desk) -> None:
    assert desk.submit() == ""
    assert desk.uploaded() == desk.file.read_bytes()
    (entry,) = desk.sent()
    (submission,) = desk.server.submissions
    assert entry["state"] == "sent" and entry["message"] == submission["description"]
    assert "CV Dice 0.99712" in entry["message"]
    assert (entry["cv_dice"], entry["blend"], entry["git_commit"]) == (0.99712, {"members": ["unet"]}, "abc123")
    # the client did authenticate with the canary, so its absence elsewhere means something
    assert "Authorization" in desk.server.called("CreateSubmission")[0].headers

    calls = len(desk.server.requests)
    error = desk.submit()
    assert "was sent on" in error and "--again" in error
    assert len(desk.server.requests) == calls

    submission |= {"status": "COMPLETE", "publicScore": "0.99705", "privateScore": "0.99698"}
    desk.server.submissions.append({**submission, "ref": 7, "description": "by hand", "publicScore": "0.5"})
    desk.capture()
    assert desk.submit(scores=True) == ""
    out = desk.capture().out
    assert out.splitlines()[1].split()[1:5] == ["0.99712", "0.99705", "0.99698", "complete"]
    assert "by hand" in out
    assert (desk.sent()[0]["public_score"], desk.sent()[0]["private_score"]) == ("0.99705", "0.99698")


def test_recompressing_does_not_make_it_new(desk: Desk) -> None:
    assert desk.submit() == ""
    other = desk.runs / "other.csv"
    other.write_text(CSV)
    assert "was sent on" in desk.submit(file=other)


def test_compresses_plain_csv(desk: Desk) -> None:
    plain = desk.runs / "own.csv"
    plain.write_text(CSV)
    assert desk.submit(file=plain, message="mine") == ""
    assert gzip.decompress(desk.uploaded()).decode() == CSV
    assert desk.server.submissions[0]["description"].startswith("mine [")


def test_a_zip_is_sent_as_it_is(desk: Desk) -> None:
    packed = desk.runs / "own.zip"
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("own.csv", CSV)
    assert desk.submit(file=packed) == ""
    assert desk.uploaded() == packed.read_bytes()
    # by its content it is the same as the CSV itself
    plain = desk.runs / "own.csv"
    plain.write_text(CSV)
    assert "was sent on" in desk.submit(file=plain)


def _changed(desk: Desk) -> None:
    desk.file.write_bytes(gzip.compress(CSV.encode(), mtime=5))


def _without_manifest(desk: Desk) -> None:
    (desk.file.parent / "manifest.json").unlink()


def _cut_off(desk: Desk) -> None:
    desk.file.write_bytes(desk.file.read_bytes()[:-9])


def _short(desk: Desk) -> None:
    desk.write(CSV.rpartition(NAMES[2])[0])


def _gone(desk: Desk) -> None:
    desk.file.unlink()


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (_changed, "does not have the bytes its manifest was written for"),
        (_without_manifest, "was not finished"),
        (_cut_off, "damaged or cut off"),
        (_short, "does not pass the check"),
        (_gone, "is missing"),
    ],
)
def test_refuses_before_any_call(desk: Desk, spoil: Callable[[Desk], None], sentence: str) -> None:
    spoil(desk)
    assert sentence in desk.submit()
    assert desk.server.requests == [] and desk.sent() == []


def test_dry_run_sends_nothing(desk: Desk) -> None:
    assert desk.submit(dry_run=True) == ""
    assert desk.server.requests == [] and desk.sent() == []


def test_no_credentials(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    error = desk.submit()
    assert "https://www.kaggle.com/settings" in error and "\n" not in error
    assert desk.server.requests == []


def test_competition_kaggle_does_not_hold(desk: Desk) -> None:
    assert "Kaggle does not hold the studio competition" in desk.submit(competition="studio")


def test_key_in_message_is_refused(desk: Desk) -> None:
    error = desk.submit(message=f"look: {CANARY}")
    assert "holds a Kaggle key" in error and desk.server.requests == []
    # nor may it stay in the record
    assert desk.sent() == []


@pytest.mark.parametrize(
    ("call", "fault", "sentence"),
    [
        ("StartSubmissionUpload", Fault(401, "Unauthenticated"), "refused the credentials of"),
        ("StartSubmissionUpload", Fault(403, "You must accept this competition's rules"), "/rules"),
        ("StartSubmissionUpload", Fault(404), "Kaggle knows no such thing"),
        ("CreateSubmission", Fault(400, "Your team has used its daily submission allowance (5)"), "allowance (5)"),
    ],
)
def test_failure_that_waiting_cannot_mend(desk: Desk, call: str, fault: Fault, sentence: str) -> None:
    desk.server.faults[call] = [fault]
    error = desk.submit()
    assert sentence in error and "\n" not in error
    assert len(desk.server.called("StartSubmissionUpload")) == 1
    assert desk.server.submissions == [] and desk.sent() == []


@pytest.mark.parametrize(
    ("call", "fault", "sentence"),
    [
        ("StartSubmissionUpload", Fault(500), "too busy"),
        ("StartSubmissionUpload", Fault(429, "Too many requests"), "too busy"),
        ("StartSubmissionUpload", Fault(0), "cannot be reached"),
        ("upload", Fault(400), "upload of its bytes did not go through"),
    ],
)
def test_failure_that_stays(desk: Desk, call: str, fault: Fault, sentence: str) -> None:
    desk.server.faults[call] = [fault] * 2
    error = desk.submit()
    assert sentence in error and "\n" not in error
    assert len(desk.server.called("StartSubmissionUpload")) == 2
    assert desk.server.submissions == [] and desk.sent() == []


@pytest.mark.parametrize(
    ("call", "fault"), [("StartSubmissionUpload", Fault(429)), ("upload", Fault(500)), ("CreateSubmission", Fault(503))]
)
def test_failure_that_passes(desk: Desk, call: str, fault: Fault) -> None:
    desk.server.faults[call] = [fault]
    assert desk.submit() == ""
    assert len(desk.server.submissions) == 1 and desk.uploaded() == desk.file.read_bytes()


@pytest.mark.parametrize("fault", [Fault(0, after=True), Fault(502, after=True)])
def test_lost_answer_is_not_sent_twice(desk: Desk, fault: Fault) -> None:
    desk.server.faults["CreateSubmission"] = [fault]
    assert desk.submit() == ""
    assert len(desk.server.submissions) == 1
    assert desk.sent()[0]["state"] == "sent" and desk.sent()[0]["ref"] == 1000


def test_lost_answer_and_lost_network(desk: Desk) -> None:
    desk.server.faults["CreateSubmission"] = [Fault(0, after=True)]
    desk.server.faults["ListSubmissions"] = [Fault(0)] * 2
    error = desk.submit()
    assert "it is not known whether" in error and "\n" not in error
    assert desk.sent()[0]["state"] == "sending"
    # the network is back: the next run finds it and does not send it again
    assert "was sent on" in desk.submit()
    assert len(desk.server.submissions) == 1 and desk.sent()[0]["state"] == "sent"


def test_no_network(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setattr(kaggle_cli, "ATTEMPTS", 1)
    assert "Kaggle cannot be reached" in desk.submit(scores=True)


def test_interrupted_client_is_a_failure_and_next_run_sends_once(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    popen = subprocess.Popen

    def remember(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
        started.append(popen(*args, **kwargs))
        return started[-1]

    def interrupt() -> None:
        desk.server.stalled.wait(30)
        started[-1].send_signal(signal.SIGINT)

    monkeypatch.setattr(subprocess, "Popen", remember)
    desk.server.faults["CreateSubmission"] = [Fault(-1)]
    thread = threading.Thread(target=interrupt)
    thread.start()
    error = desk.submit()
    thread.join()
    assert started[0].returncode == 0, "the client no longer exits 0 on Ctrl-C: the test is void"
    assert "it was interrupted" in error
    assert desk.server.submissions == []
    desk.server.release.set()
    assert desk.submit() == ""
    assert len(desk.server.submissions) == 1


def test_killed_while_sending_keeps_its_tag(desk: Desk) -> None:
    """What a kill leaves is the entry written before the upload; the run after it must not double it."""
    assert desk.submit() == ""
    ledger = desk.runs / "carvana" / "sent.json"
    entry = json.loads(ledger.read_text())[0]
    ledger.write_text(json.dumps([{**entry, "state": "sending"}]))
    assert "was sent on" in desk.submit()
    ledger.write_text(json.dumps([{**entry, "state": "sending"}]))
    desk.server.submissions.clear()
    assert desk.submit() == ""
    (again,) = desk.sent()
    assert again["tag"] == entry["tag"] and len(desk.server.submissions) == 1


def test_access_token(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    monkeypatch.setenv("KAGGLE_API_TOKEN", CANARY)
    assert kaggle_cli.username(find_credentials()) == USER
    assert desk.submit() == ""
    assert desk.server.called("CreateSubmission")[0].headers["Authorization"] == f"Bearer {CANARY}"


# what editors, shells and copying leave around a key
AROUND: dict[str, Callable[[str], str]] = {
    "carriage return": lambda key: f"{key}\r",
    "CRLF": lambda key: f"{key}\r\n",
    "line end": lambda key: f"\n{key}\n",
    "spaces": lambda key: f" {key}\t ",
    "byte-order mark": lambda key: f"\ufeff{key}",
}
# and in which encodings a file may be
ENCODINGS = ("utf-8-sig", "utf-16", "utf-16-le", "utf-16-be")


@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("variable", ["KAGGLE_API_TOKEN", "KAGGLE_KEY"])
def test_what_stands_around_a_key_is_neither_sent_nor_a_way_to_see_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, variable: str, around: str
) -> None:
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(desk.data))
    monkeypatch.setenv("KAGGLE_USERNAME", USER)
    monkeypatch.setenv(variable, AROUND[around](CANARY))
    assert desk.submit() == ""
    header = desk.server.called("CreateSubmission")[0].headers["Authorization"]
    assert header == (
        f"Bearer {CANARY}" if "TOKEN" in variable else f"Basic {b64encode(f'{USER}:{CANARY}'.encode()).decode()}"
    )


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["access_token", "access_token.txt", "kaggle.json"])
def test_a_file_of_credentials_in_any_encoding(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, name: str, encoding: str
) -> None:
    monkeypatch.delenv("KAGGLE_CONFIG_DIR")
    folder = Path.home() / ".kaggle"
    folder.mkdir()
    pair = json.dumps({"username": USER, "key": CANARY})
    (folder / name).write_bytes((pair if name.endswith("json") else f"{CANARY}\r\n").encode(encoding))
    assert desk.submit() == ""
    assert len(desk.server.submissions) == 1
    assert desk.server.called("CreateSubmission")[0].headers["Authorization"].split()[0] in ("Bearer", "Basic")


@pytest.mark.parametrize("inside", ["\r", "\n", " ", "\x1b[2J", "é", "\udcff"])
@pytest.mark.parametrize("variable", ["KAGGLE_API_TOKEN", "KAGGLE_USERNAME", "KAGGLE_KEY"])
def test_a_key_that_can_be_none_is_refused_unseen(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, variable: str, inside: str
) -> None:
    monkeypatch.setenv(variable, CANARY + inside + CANARY)
    error = desk.submit()
    assert f"{variable} holds a line break, a space or another character" in error
    assert CANARY not in error and error.isprintable() and desk.server.requests == []


def test_a_file_that_is_no_text_is_one_sentence(desk: Desk) -> None:
    folder = Path.home() / ".kaggle"
    folder.mkdir()
    (folder / "access_token").write_bytes(b"\x89PNG\xff" + CANARY.encode())
    error = desk.submit()
    assert "~/.kaggle/access_token cannot be read (it is neither UTF-8 nor UTF-16 text)" in error
    assert CANARY not in error and "\n" not in error


@pytest.mark.parametrize("secret", ["plain0", "with\\back", 'quo"te', "per%cent/slash", "it's"])
def test_a_secret_is_redacted_however_it_is_escaped(secret: str) -> None:
    credentials = Credentials("here", None, (secret,))
    for form in (secret, repr(secret), repr(f"{secret}\r"), json.dumps(secret), quote(secret, safe="")):
        assert secret not in credentials.redact(f"header {form} refused")
        assert "***" in credentials.redact(f"header {form} refused") and credentials.are_in(form.encode())


def test_credentials_show_no_secret(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_USERNAME", "other")
    credentials = find_credentials()
    assert credentials.username == "other" and CANARY not in repr(credentials)
    assert credentials.redact(f"key {CANARY}") == "key ***"


def test_a_server_that_dies_in_mid_upload_is_noticed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kaggle_cli.SILENCE_S < 60
    monkeypatch.setattr(kaggle_cli, "SILENCE_S", 3.0)
    # once, and the next try brings it there; and for good, which is one sentence
    desk.server.faults["upload"] = [Fault(-1)]
    assert desk.submit() == ""
    assert len(desk.server.submissions) == 1 and desk.uploaded() == desk.file.read_bytes()
    desk.server.faults["CreateSubmission"] = [Fault(-1)] * 9
    error = desk.submit(again=True)
    assert "neither taken nor sent a byte for 3 s" in error and "\n" not in error


def test_what_kaggle_lists_cannot_act_on_the_terminal(desk: Desk) -> None:
    assert desk.submit() == ""
    evil = "\x1b[2J\x1b]0;owned\x07\x9b31mby\x08hand"
    desk.server.submissions.append({**desk.server.submissions[0], "description": evil, "fileName": evil})
    desk.capture()
    assert desk.submit(scores=True) == ""
    out = desk.capture().out
    assert "byhand" in out and all(c.isprintable() or c == "\n" for c in out)
    desk.server.faults["ListSubmissions"] = [Fault(403, evil)]
    error = desk.submit(scores=True)
    assert "byhand" in error and error.isprintable()
