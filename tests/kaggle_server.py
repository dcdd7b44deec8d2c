"""A stand-in for Kaggle on the loopback: what the real client calls, recorded, with failures on demand.

The client is pointed at it by `environment`: KAGGLE_API_ENVIRONMENT=LOCALHOST makes it call http://localhost, and
http_proxy brings those calls here without a privileged port.
"""

from __future__ import annotations

import json
import threading
import urllib.parse
from collections import defaultdict
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

USER = "turntable"
CANARY = "canary0key1never2seen3"
MODIFIED = "Wed, 01 Jan 2020 00:00:00 GMT"


@dataclass(frozen=True)
class Request:
    """One request as it came in."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True)
class Fault:
    """An answer to give instead of the right one.

    Attributes:
        status: of HTTP; 0 closes the connection without an answer, -1 keeps it open until `release` is set.
        message: in the API's JSON envelope; without one the answer has no body.
        after: do what was asked before failing, so that only the answer is lost.
    """

    status: int
    message: str | None = None
    after: bool = False


class KaggleServer:
    """The state of a small Kaggle.

    Attributes:
        files: the competition's files, by name.
        listed_bytes: sizes that the list gives instead of the files' own, by name.
        submissions: as ListSubmissions returns them.
        blobs: uploaded bytes, by token.
        datasets: versions of every dataset, each a list of tokens, by "owner/slug".
        kernels: the SaveKernel requests, by "owner/slug".
        statuses: what GetKernelSessionStatus answers, one after the other; the last stays.
        output: a kernel's output files, by name.
        log: a kernel's log.
        faults: failures still to come, by the last part of the called path.
        stall_after: a file's GET stops after that many bytes until `release` is set.
        stalled: set when a request was made to wait.
        save: fields to put into the next SaveKernel responses.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.listed_bytes: dict[str, int] = {}
        self.submissions: list[dict[str, Any]] = []
        self.blobs: dict[str, bytes] = {}
        self.datasets: dict[str, list[list[str]]] = {}
        self.kernels: dict[str, dict[str, Any]] = {}
        self.statuses: list[dict[str, Any]] = [{"status": "COMPLETE"}]
        self.output: dict[str, bytes] = {}
        self.log = ""
        self.faults: dict[str, list[Fault]] = defaultdict(list)
        self.stall_after: int | None = None
        self.stalled, self.release = threading.Event(), threading.Event()
        self.save: dict[str, Any] = {}
        self.requests: list[Request] = []
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True

    def __enter__(self) -> KaggleServer:
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._http.shutdown()
        self._http.server_close()

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        return int(self._http.server_address[1])

    def environment(self, home: Path) -> dict[str, str]:
        """What the client needs in its environment, with an own home and an own folder for its upload records."""
        (home / "tmp").mkdir(parents=True, exist_ok=True)
        return {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "http_proxy": f"http://127.0.0.1:{self.port}",
            "no_proxy": "",
            "NO_PROXY": "",
            "HOME": str(home),
            "TMPDIR": str(home / "tmp"),
        }

    def called(self, name: str) -> list[Request]:
        """The requests whose path ends in `name`."""
        return [r for r in self.requests if r.path.rpartition("/")[2] == name]

    def answer(self, name: str, asked: dict[str, Any]) -> Any:
        """The API's right answer to a call; None where it knows no such thing."""
        method = getattr(self, f"_{name}", None)
        with self._lock:
            return method(asked) if method else None

    def _IntrospectToken(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        return {"active": True, "username": USER}

    def _ListDataFiles(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        listing = [
            {
                "ref": n,
                "name": n,
                "totalBytes": self.listed_bytes.get(n, len(b)),
                "creationDate": "2017-07-24T22:00:00Z",
            }
            for n, b in self.files.items()
        ]
        return {"files": listing, "nextPageToken": ""}

    def _upload(self) -> dict[str, str]:
        token = f"token{len(self.blobs)}"
        self.blobs[token] = b""
        return {"token": token, "createUrl": f"http://localhost/upload/{token}"}

    def _StartSubmissionUpload(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        return self._upload()

    def _StartBlobUpload(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        return self._upload()

    def _CreateSubmission(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        self.submissions.insert(
            0,
            {
                "ref": 1000 + len(self.submissions),
                "date": "2026-01-02T03:04:05.678Z",
                "description": asked["submissionDescription"],
                "fileName": "submission.csv.gz",
                "status": "PENDING",
                "token": asked["blobFileTokens"],
            },
        )
        return {"message": "Successfully submitted to Carvana Image Masking Challenge", "ref": 1000}

    def _GetSubmissionLimits(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        return {"numToday": 1, "numTotal": 1, "numAllowedNow": 4}

    def _ListSubmissions(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        return {"submissions": [{k: v for k, v in s.items() if k != "token"} for s in self.submissions]}

    def _GetDatasetStatus(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        known = f"{asked['ownerSlug']}/{asked['datasetSlug']}" in self.datasets
        return {"status": "READY"} if known else None

    def _GetDataset(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        versions = self.datasets.get(f"{asked['ownerSlug']}/{asked['datasetSlug']}")
        return {"currentVersionNumber": len(versions)} if versions else None

    def _CreateDataset(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        ref = f"{asked['ownerSlug']}/{asked['slug']}"
        self.datasets[ref] = [[f["token"] for f in asked.get("files", [])]]
        return {"ref": ref, "url": f"http://localhost/{ref}", "status": "ok"}

    def _CreateDatasetVersion(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        ref = f"{asked['ownerSlug']}/{asked['datasetSlug']}"
        self.datasets[ref].append([f["token"] for f in asked["body"].get("files", [])])
        return {"ref": ref, "url": f"http://localhost/{ref}", "status": "ok"}

    def _SaveKernel(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        if "error" not in self.save:
            self.kernels[asked["slug"]] = asked
        return {"ref": asked["slug"], "url": "http://localhost/code", "versionNumber": 1, **self.save}

    def _GetKernelSessionStatus(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        return self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]

    def _ListKernelSessionOutput(self, asked: dict[str, Any]) -> Any:  # noqa: N802
        files = [{"fileName": n, "url": f"http://localhost/output/{n}"} for n in self.output]
        return {"files": files, "log": self.log}


def _handler(server: KaggleServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: Any) -> None:
            pass

        def _reply(self, status: int, body: bytes = b"", **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _json(self, status: int, value: Any) -> None:
            self._reply(status, json.dumps(value).encode(), Content_Type="application/json")

        def _failed(self, name: str, *, after: bool) -> bool:
            """Give the fault that is due for this call, if there is one."""
            queue = server.faults[name]
            if not queue or queue[0].after != after:
                return False
            fault = queue.pop(0)
            if fault.status == -1:
                server.stalled.set()
                server.release.wait(30)
            if fault.status <= 0:
                self.close_connection = True
                self.connection.close()
            elif fault.message is None:
                self._reply(fault.status)
            else:
                self._json(fault.status, {"code": fault.status, "message": fault.message})
            return True

        def _begin(self) -> tuple[str, bytes]:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urllib.parse.urlsplit(self.path).path
            server.requests.append(Request(self.command, path, dict(self.headers), body))
            return path, body

        def do_POST(self) -> None:
            path, body = self._begin()
            name = path.rpartition("/")[2]
            if self._failed(name, after=False):
                return
            asked = json.loads(body or b"{}")
            if name == "DownloadDataFile":
                if asked["fileName"] not in server.files:
                    self._json(404, {"code": 404, "message": "Not found"})
                else:
                    self._reply(302, Location=f"http://localhost/data/{asked['fileName']}?signature=x")
                return
            answer = server.answer(name, asked)
            if self._failed(name, after=True):
                return
            if answer is None:
                self._json(404, {"code": 404, "message": "Not found"})
            else:
                self._json(200, answer)

        def do_PUT(self) -> None:
            path, body = self._begin()
            if self._failed("upload", after=False):
                return
            token = path.rpartition("/")[2]
            total = self.headers.get("Content-Range", "").rpartition("/")[2]
            if not body and total:
                # "how far did we get?", as a resumed upload asks
                have = len(server.blobs[token])
                if have == int(total):
                    self._reply(200)
                elif have:
                    self._reply(308, Range=f"bytes=0-{have - 1}")
                else:
                    self._reply(308)
                return
            server.blobs[token] += body
            self._reply(200)

        def do_GET(self) -> None:
            path, _ = self._begin()
            folder, _, name = path.strip("/").partition("/")
            if self._failed("output" if folder == "output" else "data", after=False):
                return
            content = (server.output if folder == "output" else server.files).get(name)
            if content is None:
                self._reply(404)
                return
            start, status = 0, 200
            if asked := self.headers.get("Range"):
                start, status = int(asked.removeprefix("bytes=").rstrip("-")), 206
            body = content[start:]
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("ETag", f'"{len(content)}"')
            self.send_header("Last-Modified", MODIFIED)
            self.end_headers()
            if server.stall_after is not None and len(body) > server.stall_after:
                self.wfile.write(body[: server.stall_after])
                self.wfile.flush()
                server.stalled.set()
                server.release.wait(30)
                self.close_connection = True
                return
            self.wfile.write(body)

    return Handler


def leaks(server: KaggleServer, *folders: Path) -> list[str]:
    """Files under `folders`, and uploaded bodies, that hold the canary key; must be empty."""
    found = [str(p) for f in folders for p in f.rglob("*") if p.is_file() and CANARY.encode() in p.read_bytes()]
    # asking whether a token is good is the one call that is made of it
    bodies = (r for r in server.requests if not r.path.endswith("IntrospectToken"))
    return found + [r.path for r in bodies if CANARY.encode() in r.body]
