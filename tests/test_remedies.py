"""Messages name the next step: a command that exists, for the competition at hand, that mends what is wrong."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from command_line import UserError, program
from competition import COMPETITIONS
from ensemble.blend import find_blend
from ensemble.blend_file import read_blend
from folds import split
from folds.images import TrainingSet
from models import checkpoint
from models.frame import Frame
from predict.members import find_members
from remedies import OF_COMPETITIONS, completed
from submit.check import sample_names
from tests.synthetic_runs import UNET, save_member, write_photograph

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = {match[1]: match[2] for match in re.finditer(r"^([a-z-]+):(?!=).*\n((?:\t.*\n)+)", MAKEFILE, re.M)}
# it has no recipe of its own
VERBS["ensemble"] = VERBS["fit"] + VERBS["submission"]
_COMMAND = re.compile(r"\bmake ([a-z][a-z-]+)((?: [A-Z]+=(?:'[^']*'|[^\s'(),;:]+))+)?")


def sentences() -> Iterator[tuple[str, str]]:
    """Every text in the sources that is no docstring, with `{}` where a value goes; and where it stands."""
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.split():
        if name.startswith(("tests/", "benchmarks/")):
            continue
        tree = ast.parse((ROOT / name).read_text())
        inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
        docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.JoinedStr):
                parts = [part.value if isinstance(part, ast.Constant) else "X" for part in node.values]
                yield f"{name}:{node.lineno}", "".join(map(str, parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str) and not {id(node)} & (inner | docs):
                yield f"{name}:{node.lineno}", node.value


def test_every_command_in_a_message_is_a_verb_with_variables_that_it_takes() -> None:
    found = []
    for where, text in sentences():
        for verb, settings in _COMMAND.findall(text):
            variables = re.findall(r"([A-Z]+)=", re.sub(r"'[^']*'", "", settings))
            if verb in VERBS:
                found.append(verb)
                for variable in variables:
                    used = re.search(
                        rf"\b{variable}\b|\(WHERE\)"
                        if variable in ("C", "DATA")
                        else rf"\b{variable}\b|\(MORE\)|args-for",
                        VERBS[verb],
                    )
                    assert used or variable == "C", f"{where}: make {verb} takes no {variable}"
            else:
                assert not variables, f"{where}: there is no make {verb}"
    assert len(found) > 40


def test_every_module_that_a_message_runs_is_a_program() -> None:
    found = 0
    for where, text in sentences():
        for module in re.findall(r"python -m ([a-z_.]+[a-z_])", text):
            path = ROOT / (module.replace(".", "/") + ".py")
            package = path.with_suffix("") / "__main__.py"
            assert package.exists() or "__main__" in path.read_text(), where
            found += 1
    assert found > 3


def test_the_verbs_of_a_competition_are_those_that_take_one() -> None:
    takes = {verb for verb, recipe in VERBS.items() if "$(WHERE)" in recipe or "call quoted,C" in recipe}
    assert set(OF_COMPETITIONS) == takes - {"help", "demo-depth"}


@pytest.mark.parametrize("verb", OF_COMPETITIONS)
def test_a_command_is_for_the_competition_and_the_folders_of_the_program(verb: str) -> None:
    here = {"competition": "carvana", "data": Path("data/carvana"), "runs": Path("runs")}
    assert completed(f"run make {verb}.", here) == f"run make {verb}."
    text = completed(f"run make {verb} V=a.", {"competition": "salt", "data": Path("s d"), "runs": Path("my runs")})
    ran = subprocess.run(
        ["bash", "-c", text.removeprefix("run ").removesuffix(".") + " -n"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    if verb != "notebook-pull":
        assert "salt" in ran.stdout
    if "DATA" in text:
        assert "'s d'" in ran.stdout or verb in ("data", "notebook-push", "notebook-pull")
    if "ARGS" in text and "MORE" in VERBS[verb]:
        assert "--runs 'my runs'" in ran.stdout


def test_programs_complete_their_messages(capsys: pytest.CaptureFixture[str]) -> None:
    @program
    def main(competition: str = "carvana", runs: Path = Path("runs")) -> None:
        raise UserError("nothing is there: make fit.")

    for arguments, said in (
        ((), "make fit."),
        (("salt", Path("elsewhere")), "make fit C=salt ARGS='--runs elsewhere'."),
    ):
        with pytest.raises(SystemExit, match=re.escape(f"error: nothing is there: {said}")):
            main(*arguments)


def test_without_a_blend_the_next_step_depends_on_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    root = Path("runs/carvana")
    with pytest.raises(
        UserError, match=r"nothing is trained in runs/carvana yet; .*make folds V=\.\.\., then make fit\)\.$"
    ):
        read_blend(root / "blend")
    Path("trained/carvana").mkdir(parents=True)
    with pytest.raises(UserError, match=r"come with this repository \(ARGS='--runs trained'\)\.$"):
        read_blend(root / "blend")
    save_member(root, UNET)
    with pytest.raises(UserError, match=r"choose it first \(make fit\)\.$"):
        read_blend(root / "blend")
    (root / "other").mkdir()
    (root / "other" / "blend.json").write_text("{}")
    with pytest.raises(UserError, match=r"\(make fit\), or name one that is there: other\.$"):
        read_blend(root / "blend")


def test_the_remedy_for_a_missing_blend_predicts(tmp_path: Path) -> None:
    """The command that the message gives is run as it stands, on a photograph."""
    write_photograph(tmp_path / "photos" / "a.jpg", 61, 97)
    command = [sys.executable, "-m", "ensemble.photographs", "--images", str(tmp_path / "photos")]
    command += ["--out", str(tmp_path / "masks"), "--runs", str(tmp_path / "runs")]
    refused = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert refused.returncode == 1
    flags = re.search(r"ARGS='([^']*)'\)\.$", refused.stderr.strip())
    assert flags is not None, refused.stderr
    again = subprocess.run([*command, *flags[1].split()], cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0 and (tmp_path / "masks" / "a_mask.png").exists(), again.stderr


def test_a_typing_error_is_not_sent_to_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="'unet-mobilenetv33' is no variant") as caught:
        find_blend(tmp_path, "blend", "unet-mobilenetv33")
    assert "make folds" not in str(caught.value)


def test_folders_that_were_handed_on_are_got_again_and_not_trained(tmp_path: Path) -> None:
    root = tmp_path / "carvana"
    member = save_member(root, UNET)
    for shipped in (False, True):
        if shipped:
            (root / "README.md").write_text("card")
        remedy = "get that folder again" if shipped else f"make fold V={UNET.name} F=1"
        for name in (checkpoint.WEIGHTS_FILE, checkpoint.VARIANT_FILE):
            path = member.folds[1] / name
            content = path.read_bytes()
            path.unlink()
            with pytest.raises(UserError, match=remedy):
                checkpoint.load(member.folds[1])
            path.write_bytes(content[:50])
            if name == checkpoint.WEIGHTS_FILE:
                with pytest.raises(UserError, match=remedy):
                    checkpoint.load(member.folds[1])
                with pytest.raises(UserError, match=remedy):
                    find_members(root, [UNET.name], 2)
            path.write_bytes(content)


def test_files_of_another_size_may_be_the_entrys_fault(tmp_path: Path) -> None:
    write_photograph(tmp_path / "a.jpg", 61, 97)
    with pytest.raises(
        UserError, match=r"97 pixels .* expected 60x97: put .* own file back, or, .* mend `size` in compe"
    ):
        Frame((32, 48)).load(tmp_path / "a.jpg", (60, 97))


def test_a_sample_file_of_other_columns_may_be_the_entrys_fault(tmp_path: Path) -> None:
    (tmp_path / "sample_submission.csv").write_text("id,mask\na,\n")
    with pytest.raises(UserError, match=r"own file there, or mend the entry 'carvana' in competition\.py"):
        sample_names(tmp_path, COMPETITIONS["carvana"])


def groups_of(*names: str) -> TrainingSet:
    return TrainingSet(COMPETITIONS["salt"], Path("data/salt"), tuple(sorted(names)), "d", ("",) * len(names))


def test_a_users_own_split_may_name_images_as_the_submission_does(tmp_path: Path) -> None:
    training = groups_of("000000000a.png", "000000000b.png", "000000000c.png")
    for images in (["000000000a.png", "000000000b.png", "000000000c.png"], ["000000000a", "000000000b", "000000000c"]):
        path = tmp_path / "own.csv"
        pd.DataFrame({"image": images, "fold": [0, 1, 0]}).to_csv(path, index=False)
        assert split.read(path, training, own=True)["fold"].tolist() == [0, 1, 0]
    pd.DataFrame({"image": ["000000000a", "000000000b", "000000000x"], "fold": [0, 1, 0]}).to_csv(path, index=False)
    with pytest.raises(
        UserError, match=r"lists 000000000x, .*: it was made for other data; mend its rows, or leave --folds-csv"
    ) as own:
        split.read(path, training, own=True)
    assert "remove it" not in str(own.value)
    with pytest.raises(UserError, match="remove it to have a new split made"):
        split.read(path, training)


def test_one_group_is_told_apart_from_too_many_folds(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="all 3 images belong to one group") as caught:
        split.split_groups(np.array(["a"] * 3), np.ones(3), folds=5, seed=0)
    assert "between" not in str(caught.value)
    with pytest.raises(UserError, match="between 2 and 3 folds"):
        split.split_groups(np.array(list("abc")), np.ones(3), folds=5, seed=0)
