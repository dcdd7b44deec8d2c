"""Kaggle's credentials: found where Kaggle's own client finds them, and kept out of everything that is printed."""

from __future__ import annotations

import base64
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from command_line import UserError
from json_file import Schema, extensible

WHERE_TO_GET = (
    "create an API token on https://www.kaggle.com/settings (section API) and put the kaggle.json it gives you into "
    "~/.kaggle/, or set KAGGLE_API_TOKEN, or set KAGGLE_USERNAME and KAGGLE_KEY"
)


@extensible
class _Pair(TypedDict, total=False):
    """What kaggle.json holds."""

    username: str
    key: str


@extensible
class _Login(TypedDict, total=False):
    """What the client's `auth login` leaves, as far as it is looked at; every *_token is a secret."""

    username: str | None
    refresh_token: str | None
    access_token: str | None


_PAIR = Schema(_Pair, WHERE_TO_GET, secret=True)
_LOGIN = Schema(_Login, "log in again (kaggle auth login), or remove it", secret=True)


@dataclass(frozen=True)
class Credentials:
    """What the client will authenticate with.

    Attributes:
        source: where they were found, for people.
        username: None where only Kaggle knows it (a token).
        secrets: every string that must never be seen: keys, tokens, and the header made of name and key.
    """

    source: str
    username: str | None
    secrets: tuple[str, ...] = field(repr=False)

    def redact(self, text: str) -> str:
        """`text` with every secret replaced by `***`."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    def are_in(self, data: bytes) -> bool:
        """Whether `data` holds a secret."""
        return any(secret.encode() in data for secret in self.secrets)


def config_file() -> Path:
    """Where the client looks for kaggle.json: KAGGLE_CONFIG_DIR, else ~/.kaggle, else the XDG folder."""
    if named := os.environ.get("KAGGLE_CONFIG_DIR"):
        return Path(named) / "kaggle.json"
    folder = Path.home() / ".kaggle"
    if sys.platform.startswith("linux") and not folder.exists():
        folder = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config") / "kaggle"
    return folder / "kaggle.json"


def _values(schema: Schema[Any], path: Path) -> dict[str, str]:
    """The texts in one of the client's files; none where it is not there."""
    try:
        found = schema.read_if_there(path) or {}
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): {schema.hint}.") from None
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _token() -> tuple[str, str] | None:
    """An access token and where it was found."""
    value = os.environ.get("KAGGLE_API_TOKEN", "")
    sources = [(Path.home() / ".kaggle" / name, f"~/.kaggle/{name}") for name in ("access_token", "access_token.txt")]
    if value:
        try:
            is_file = Path(value).is_file()
        except OSError:  # too long for a path
            is_file = False
        if not is_file:
            return value, "KAGGLE_API_TOKEN"
        sources = [(Path(value), "the file KAGGLE_API_TOKEN names")]
    for path, source in sources:
        if path.is_file() and (text := path.read_text(encoding="utf-8").strip()):
            return text, source
    return None


def find_credentials() -> Credentials:
    """Find credentials in the client's own order: access token, name and key, the client's `auth login`.

    Raises:
        UserError: there are none, or kaggle.json cannot be read; the message says where to get some.
    """
    secrets: list[str] = []
    found: tuple[str, str | None] | None = None
    if token := _token():
        secrets.append(token[0])
        found = token[1], None
    # the other kinds may lie beside it, and the client would fall back to them: none may ever be shown
    path = config_file()
    pair = _values(_PAIR, path)
    source = str(path)
    for key in ("username", "key"):
        if value := os.environ.get(f"KAGGLE_{key.upper()}"):
            pair[key] = value
            source = f"KAGGLE_{key.upper()}"
    if pair.get("key"):
        name, key = pair.get("username"), pair["key"]
        secrets.append(key)
        if name:
            secrets.append(base64.b64encode(f"{name}:{key}".encode()).decode())
            found = found or (source, name)
    login = _values(_LOGIN, Path.home() / ".kaggle" / "credentials.json")
    if login.get("refresh_token"):
        secrets += [value for name, value in login.items() if name.endswith("_token") and value]
        found = found or ("kaggle auth login", login.get("username"))
    if found is None:
        raise UserError(f"there are no Kaggle credentials: {WHERE_TO_GET}.")
    return Credentials(found[0], found[1], tuple(sorted(set(secrets), key=len, reverse=True)))
