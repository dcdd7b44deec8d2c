import re
import subprocess
import sys
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from command_line import UserError, program

KILLED = (
    "error: a process was killed, most often for want of memory: run the same command again to go on from here, with "
    "fewer --jobs where it takes them"
)
FULL = "error: the disk is full{}; free some space and run the same command again, what is finished is kept."


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (UserError("x is missing: copy it there."), "error: x is missing: copy it there."),
        (PermissionError(13, "Permission denied", "runs"), "error: Permission denied: runs"),
        (OSError(28, "No space left on device"), FULL.format("")),
        (OSError(122, "Disk quota exceeded", "runs/a"), FULL.format(": runs/a could not be written")),
        (BrokenProcessPool(), KILLED),
        # what joblib makes of one
        (TerminatedWorkerError(), KILLED),
        (KeyboardInterrupt(), 130),
    ],
)
def test_a_failure_is_one_line_and_a_status(error: BaseException, code: object) -> None:
    @program
    def main() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == code


def test_other_errors_keep_their_traceback() -> None:
    @program
    def main() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main()


def test_a_command_says_at_its_end_how_long_it_took_and_a_function_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "quick.py").write_text(
        "from command_line import program\n\n\n@program\ndef main() -> None:\n    print('result')\n\n\n"
        "if __name__ == '__main__':\n    main()\n"
    )
    root = Path(__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "quick"],
        cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "result\n" and re.fullmatch(r"quick took \d+ s\n", done.stderr)

    @program
    def main() -> None:
        print("result")

    main()
    assert capsys.readouterr() == ("result\n", "")


GROWING = """
import os, time

held = []

def task(number):
    # after a first small task, a worker takes what a training would keep, and works for longer than joblib waits
    # between two looks at its memory
    held.append(bytearray(b"x") * (360_000_000 if len(held) == 1 else 1))
    time.sleep(1.1 if len(held) == 2 else 0.01)
    return os.getpid()
"""
GROW = """
import joblib
import growing
from command_line import program

@program
def main():
    print(len(set(joblib.Parallel(n_jobs=2, batch_size=1)(joblib.delayed(growing.task)(k) for k in range(40)))))

main()
"""


def test_a_worker_that_keeps_memory_is_neither_ended_nor_warned_of(tmp_path: Path) -> None:
    (tmp_path / "growing.py").write_text(GROWING)
    paths = f"{tmp_path}:{Path(__file__).parent.parent}"
    done = subprocess.run(
        [sys.executable, "-c", GROW], cwd=tmp_path, env={"PYTHONPATH": paths}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "2\n"), done.stderr
    assert "worker stopped" not in done.stderr
