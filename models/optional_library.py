"""Whether an optional library can be used: one that is there may be broken, or a remnant of itself."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Sequence

ABSENT = "is not installed"


@functools.cache
def _fault_of_import(library: str, needs: tuple[str, ...]) -> str:
    try:
        module = importlib.import_module(library)
    except Exception as error:
        # whatever a broken installation stumbles over: a missing shared library, another Python, half a package
        reason = (str(error).splitlines() or [""])[0]
        return f"cannot be imported ({type(error).__name__}: {reason})"
    # what an uninstallation leaves behind, a folder without code, imports as an empty package
    lacking = [name for name in needs if not hasattr(module, name)]
    return f"is incomplete (it lacks {lacking[0]})" if lacking else ""


def fault_of(library: str, needs: Sequence[str] = ()) -> str:
    """Why a library cannot be used, as the end of "<library> ..."; empty where it can. Imports it.

    Args:
        library: name of the module.
        needs: names that it must have.

    >>> fault_of("json", ["dumps"]), fault_of("json", ["no_such_name"]), fault_of("no_such_library")
    ('', 'is incomplete (it lacks no_such_name)', 'is not installed')
    """
    try:
        found = importlib.util.find_spec(library)
    except (ImportError, ValueError):
        # half of one, in `sys.modules` already
        found = None
    return ABSENT if found is None else _fault_of_import(library, tuple(needs))


def install_command(fault: str, requirements: str) -> str:
    """The command that repairs a fault of `fault_of`, given the name of the requirements file.

    >>> install_command("is not installed", "requirements-cpu.txt")
    'pip install -r requirements-cpu.txt'
    """
    if fault == ABSENT:
        return f"pip install -r {requirements}"
    return f"pip install --force-reinstall -r {requirements}"
