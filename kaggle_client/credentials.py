"""Kaggle's credentials: found where Kaggle's own client finds them, and kept out of everything that is printed."""

from __future__ import annotations

import base64
import json
import os
import re
import sys
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from command_line import UserError
from json_file import Schema, extensible
from text_file import decode

WHERE_TO_GET = (
    "create an API token on https://www.kaggle.com/settings (section API) and save it, alone, as "
    "~/.kaggle/access_token, or set KAGGLE_API_TOKEN to it; an older kaggle.json goes into ~/.kaggle/, or set "
    "KAGGLE_USERNAME and KAGGLE_KEY"
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

# what editors and shells leave at the ends of a line: white space, controls, byte-order marks, zero-width spaces
_ENDS = re.compile(r"^[\s\x00-\x1f\x7f\ufeff\u200b]+|[\s\x00-\x1f\x7f\ufeff\u200b]+$")


def read_secret(value: str, source: str) -> str:
    """A key or token as its service takes it: without what stands around it. Empty where there is none.

    Args:
        value: from a variable or a file.
        source: where it was found, for people.

    Raises:
        UserError: it holds something else than visible ASCII characters; the message does not show it.
    """
    value = _ENDS.sub("", value)
    if not re.fullmatch(r"[!-~]*", value):
        raise UserError(
            f"{source} holds a line break, a space or another character that no Kaggle key or token has: put the key "
            "or token alone there, or remove it."
        )
    return value


def _forms(secret: str) -> set[str]:
    """A secret as it may be printed: as it is, and as Python, JSON and addresses escape it."""
    return {secret, repr(secret)[1:-1], json.dumps(secret)[1:-1], urllib.parse.quote(secret, safe="")}


@dataclass(frozen=True)
class Credentials:
    """What the client will authenticate with.

    Attributes:
        source: where they were found, for people.
        username: None where only Kaggle knows it (a token).
        secrets: every string that must never be seen: keys, tokens, and the header made of name and key.
        environment: variables for the client, so that it uses the very values that are kept secret here, and not what
            it would read by itself; None removes one.
    """

    source: str
    username: str | None
    secrets: tuple[str, ...] = field(repr=False)
    environment: Mapping[str, str | None] = field(default_factory=dict, repr=False)

    def redact(self, text: str) -> str:
        """`text` with every secret replaced by `***`."""
        forms = {form for secret in self.secrets for form in _forms(secret)}
        for form in sorted(forms, key=len, reverse=True):
            text = text.replace(form, "***")
        return text

    def are_in(self, data: bytes) -> bool:
        """Whether `data` holds a secret."""
        return any(form.encode() in data for secret in self.secrets for form in _forms(secret))


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
    value = _ENDS.sub("", os.environ.get("KAGGLE_API_TOKEN", ""))
    sources = [(Path.home() / ".kaggle" / name, f"~/.kaggle/{name}") for name in ("access_token", "access_token.txt")]
    if value:
        try:
            is_file = Path(value).is_file()
        except (OSError, ValueError):  # too long for a path, or none
            is_file = False
        if not is_file:
            return read_secret(value, "KAGGLE_API_TOKEN"), "KAGGLE_API_TOKEN"
        sources = [(Path(value), "the file KAGGLE_API_TOKEN names")]
    for path, source in sources:
        if not path.is_file():
            continue
        try:
            text = decode(path.read_bytes())
        except OSError as error:
            raise UserError(f"{source} cannot be read ({error.strerror}): {WHERE_TO_GET}.") from None
        except ValueError as error:
            raise UserError(f"{source} cannot be read ({error}): {WHERE_TO_GET}.") from None
        if token := read_secret(text, source):
            return token, source
    return None


def find_credentials() -> Credentials:
    """Find credentials in the client's own order: access token, name and key, the client's `auth login`.

    Raises:
        UserError: there are none, or one cannot be read, or can be none; the message says where to get some.
    """
    secrets: list[str] = []
    found: tuple[str, str | None] | None = None
    # an empty token is none to the client; an empty name or key is one
    environment: dict[str, str | None] = {"KAGGLE_API_TOKEN": "", "KAGGLE_USERNAME": None, "KAGGLE_KEY": None}
    if token := _token():
        secrets.append(token[0])
        environment["KAGGLE_API_TOKEN"] = token[0]
        found = token[1], None
    # the other kinds may lie beside it, and the client would fall back to them: none may ever be shown
    path = config_file()
    pair = {
        key: read_secret(value, str(path)) for key, value in _values(_PAIR, path).items() if key in ("username", "key")
    }
    secrets.append(pair.get("key", ""))
    source = str(path)
    for key in ("username", "key"):
        variable = f"KAGGLE_{key.upper()}"
        if value := read_secret(os.environ.get(variable, ""), variable):
            pair[key] = value
            source = variable
    if pair.get("key"):
        name, key = pair.get("username"), pair["key"]
        secrets.append(key)
        if name:
            secrets.append(base64.b64encode(f"{name}:{key}".encode()).decode())
            environment |= {"KAGGLE_USERNAME": name, "KAGGLE_KEY": key}
            found = found or (source, name)
    login = _values(_LOGIN, Path.home() / ".kaggle" / "credentials.json")
    if login.get("refresh_token"):
        secrets += [value for name, value in login.items() if name.endswith("_token")]
        found = found or ("kaggle auth login", login.get("username"))
    if found is None:
        raise UserError(f"there are no Kaggle credentials: {WHERE_TO_GET}.")
    longest_first = sorted({secret for secret in secrets if secret}, key=len, reverse=True)
    return Credentials(found[0], found[1], tuple(longest_first), environment)
