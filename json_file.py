"""JSON files on disk, each read by one schema: its fields, their types and ranges.

A schema is a dataclass or a `TypedDict`, its fields annotated with their ranges; pydantic holds the content against it.
What is not as it says is refused where it is read, in one sentence that names file, field, what was expected and the
remedy; behind it nothing needs to be checked again. `atomic.write_json` writes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError, with_config

from command_line import UserError
from path_names import why_not
from text_file import decode

T = TypeVar("T")


def _checked_name(name: str) -> str:
    if reason := why_not(name):
        raise ValueError(f"{name!r} names no folder, as {reason}")
    return name


# for the fields of schemas
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Interval = tuple[float, float]
Digest = Annotated[str, Field(pattern="^[0-9a-f]+$")]
# what becomes the name of a folder
FolderName = Annotated[str, AfterValidator(_checked_name)]

# decorate schemas: numbers are finite, text is no number; fields that the schema does not name are kept, or refused
extensible = with_config(ConfigDict(extra="allow", allow_inf_nan=False, strict=True))
closed = with_config(ConfigDict(extra="forbid", allow_inf_nan=False, strict=True))

_SHOWN = 60


class Schema(Generic[T]):
    """What a kind of JSON file holds.

    Args:
        kind: a dataclass or `TypedDict` decorated with `extensible` or `closed`, or a list, dict, ... of such.
        hint: what to do where a file is not so, as the end of a sentence.
        check: looks at fields together; raises ValueError with what is wrong, as the end of "it is damaged: ...".
        secret: its values are never shown, as they may be keys.
    """

    def __init__(
        self, kind: type[T], hint: str, check: Callable[[T], None] = lambda value: None, *, secret: bool = False
    ) -> None:
        self.kind = kind
        self.hint = hint
        self._check = check
        self._secret = secret

    @cached_property
    def _adapter(self) -> TypeAdapter[T]:
        # when it is first needed: it takes some milliseconds
        return TypeAdapter(self.kind)

    def parse(self, data: str | bytes) -> T:
        """The content of a file of this kind.

        Raises:
            ValueError: it is not; says which field is wrong, and what was expected.
        """
        if isinstance(data, bytes):
            try:
                data = decode(data)
            except ValueError as error:
                raise ValueError(f"no JSON: {error}") from None
        try:
            value = self._adapter.validate_json(data, strict=True)
        except ValidationError as error:
            raise ValueError(_first_fault(error, secret=self._secret)) from None
        self._check(value)
        return value

    def of(self, value: Any) -> T:
        """As `parse`, of a value that came out of JSON, or could go into it."""
        return self.parse(json.dumps(value))

    def read(self, path: Path) -> T:
        """The content of the file at `path`.

        Raises:
            FileNotFoundError: it does not exist.
            UserError: it is not as the schema says.
        """
        data = path.read_bytes()
        try:
            return self.parse(data)
        except ValueError as error:
            raise UserError(f"{path} is damaged ({error}): {self.hint}.") from None

    def read_if_there(self, path: Path) -> T | None:
        """As `read`; None where there is no file."""
        try:
            return self.read(path)
        except FileNotFoundError:
            return None


def _first_fault(error: ValidationError, *, secret: bool = False) -> str:
    fault = error.errors(include_url=False)[0]
    field = ".".join(map(str, fault["loc"])) or "it"
    message = fault["msg"]
    if fault["type"] == "json_invalid":
        return f"no JSON: {message.removeprefix('Invalid JSON: ')}"
    if fault["type"] == "missing":
        return f"{field} is missing"
    if fault["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{field} is no field of it"
    if fault["type"] == "value_error":
        return f"{field}: {message.removeprefix('Value error, ')}"
    shown = repr(fault["input"])
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    if secret:
        shown = "of another kind"
    expected = message.removeprefix("Input should be ").replace("a valid dictionary", "an object")
    if expected.startswith(("less", "greater")):
        expected = f"a number {expected}"
    return f"{field} is {shown}, expected {expected[:1].lower()}{expected[1:]}"


def holding(schema: Schema[Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """For a field that stays a plain mapping, but must be as another schema says: `AfterValidator(holding(schema))`."""

    def check(value: dict[str, Any]) -> dict[str, Any]:
        schema.of(value)
        return value

    return check
