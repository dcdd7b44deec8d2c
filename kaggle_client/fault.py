"""What Kaggle's client says when it fails, read for what it means, as one sentence with a remedy."""

from __future__ import annotations

import re
from typing import Literal

from command_line import UserError
from kaggle_client.credentials import WHERE_TO_GET, Credentials

Kind = Literal["network", "busy", "refused", "forbidden", "missing", "disk", "cancelled", "other"]


class KaggleError(UserError):
    """The client failed.

    Attributes:
        kind: "network" lost, server "busy" (429, 5xx), credentials "refused" (401), "forbidden" (403), "missing"
            (404), "disk" full, "cancelled" by Ctrl-C, or anything "other".
        output: what the client printed, without secrets.
    """

    def __init__(self, message: str, kind: Kind, output: str = "") -> None:
        super().__init__(message)
        self.kind = kind
        self.output = output

    @property
    def passing(self) -> bool:
        """Whether the same call may well succeed later."""
        return self.kind in ("network", "busy")


# in this order: the first that fits says what happened
_FAULTS: tuple[tuple[Kind, str, str, str], ...] = (
    ("cancelled", r"User cancelled operation", "it was interrupted", "run the same command again"),
    (
        "disk",
        r"No space left on device|Errno 28|Disk quota exceeded|File too large|Errno 27",
        "the disk is full",
        "free some space and run the same command again; it goes on from here",
    ),
    (
        "refused",
        r"401 Client Error|Authentication required|Unauthenticated|Invalid credentials",
        "Kaggle refused the credentials of {source}",
        WHERE_TO_GET,
    ),
    (
        "busy",
        r"429 Client Error|Too many requests|rate.?limit|5\d\d Server Error|Internal Server Error|Bad Gateway"
        r"|Service Unavailable|Gateway Time-?out",
        "Kaggle is too busy to answer ({line})",
        "try again in some minutes",
    ),
    (
        "network",
        r"Max retries exceeded|Connection aborted|Connection refused|Connection reset|RemoteDisconnected"
        r"|Failed to establish a new connection|Name or service not known|Temporary failure in name resolution"
        r"|Network is unreachable|timed out|ProxyError|SSLError|ConnectionError|IncompleteRead|Connection broken",
        "Kaggle cannot be reached",
        "look to the network and run the same command again",
    ),
    (
        "forbidden",
        r"403 Client Error|Forbidden|Permission .* was denied|accept .*rules",
        "Kaggle does not allow it ({line})",
        "{rules}",
    ),
    (
        "missing",
        r"404 Client Error|Not Found|Could not find",
        "Kaggle knows no such thing ({line})",
        "look at the name",
    ),
)


def _last_line(text: str) -> str:
    # progress bars rewrite their line; only what stands at its end counts
    lines = [part.rpartition("\r")[2].strip() for part in text.splitlines()]
    telling = (line for line in reversed(lines) if line and not re.match(r"Warning:|\d+%\|", line))
    return next(telling, "it said nothing").rstrip(".")


# what a server refuses with; whatever the words are
_BY_STATUS: dict[int, Kind] = {401: "refused", 403: "forbidden", 404: "missing", 408: "busy", 429: "busy"}
# what happens on this side of the line, and is told by words alone
_OURS: tuple[Kind, ...] = ("cancelled", "disk")


def _possible(status: int) -> tuple[Kind, ...]:
    """What a failure can be, given the status of Kaggle's last answer; 0 where there was none."""
    if 500 <= status < 600:
        return (*_OURS, "busy")
    if status in _BY_STATUS:
        return (*_OURS, _BY_STATUS[status])
    if status >= 400:
        # a refusal, whatever it speaks of: waiting does not mend it
        return (*_OURS, "refused", "forbidden", "missing", "other")
    return (*_OURS, "busy", "refused", "network", "forbidden", "missing", "other")


def fault(
    doing: str, output: str, credentials: Credentials, slug: str | None = None, *, status: int = 0
) -> KaggleError:
    """What went wrong, as one sentence.

    Args:
        doing: the failed action, as the sentence's subject ("submitting blend.csv.gz").
        output: what the client printed, without secrets.
        credentials: for the place they came from.
        slug: the competition, for the address of its rules.
        status: of Kaggle's last answer, 0 where it is not known or there was none: it goes before any words.
    """
    possible = _possible(status)
    rules = "look whether your account may do this" + (
        f" and has accepted the rules at https://www.kaggle.com/c/{slug}/rules" if slug else ""
    )
    # the line that tells, not the progress bar or traceback around it
    for kind, pattern, reason, hint in _FAULTS:
        match = re.search(pattern, output, re.IGNORECASE)
        told_by_status = kind not in _OURS and "other" not in possible
        if kind not in possible or not (match or told_by_status):
            continue
        if match is None:
            line = f"status {status}: {re.sub(r' for url: .*', '', _last_line(output))}"
        else:
            line = _last_line(output[: match.end()].rpartition("\n")[2] + output[match.end() :].partition("\n")[0])
            line = re.sub(r" for url: \S+", "", line)
        filled = reason.format(source=credentials.source, line=line)
        return KaggleError(f"{doing} failed: {filled}; {hint.format(rules=rules)}.", kind, output)
    line = re.sub(r" for url: \S+", "", _last_line(output))
    return KaggleError(
        f"{doing} failed: the Kaggle client said {line!r}; see to that and run it again.", "other", output
    )
