"""The verbs: listed, explained, and handed to the right program."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_every_verb_is_phony_and_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^VERBS := (.*)$", text.replace("\\\n", " "), re.MULTILINE)[0].split())
    verbs = set(re.findall(r"^([a-z-]+):.*## ", text, re.MULTILINE))
    assert verbs == phony


def test_help_is_the_default_and_lists_every_verb() -> None:
    text = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for verb in (
        "setup",
        "demo",
        "test",
        "check",
        "data",
        "fold",
        "folds",
        "ensemble",
        "submission",
        "submit",
        "report",
        "disagreement",
        "plan",
        "scheduler",
        "worker",
        "clean",
    ):
        assert re.search(rf"^  make {verb} ", text, re.MULTILINE), verb


@pytest.fixture
def words(tmp_path: Path) -> Callable[..., list[list[str]]]:
    """What the programs that a verb calls are given: runs make with a stand-in for Python."""
    stand_in = tmp_path / "python"
    stand_in.write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    stand_in.chmod(0o755)

    def run(verb: str, *given: str, environment: Mapping[str, str] | None = None) -> list[list[str]]:
        # no space in the path of the stand-in: PY is a word of the shell
        command = ["make", "-s", "-o", "setup", verb, f"PY={stand_in}", *given]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=True, env={**os.environ, **(environment or {})}
        )
        # a recipe's last word is for people
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]

    return run


Words = Callable[..., list[list[str]]]


def value_of(words: list[str], flag: str) -> str:
    return words[words.index(flag) + 1]


# what a shell, make, or both would make something else of
TYPED = (
    "my data",
    "it's",
    'say "x"',
    "a$b",
    "$$",
    "$(shell touch x)",
    "`touch x`",
    "a;touch x",
    "a#b",
    "a\\b",
    "*",
    ")",
    "-x",
)
# verb, variable, flag that takes it
TAKEN = (
    ("data", "DATA", "--data"),
    ("fold", "DATA", "--data"),
    ("fold", "C", "--competition"),
    ("fold", "V", "--variant"),
    ("fold", "F", "--fold"),
    ("folds", "V", "--variant"),
    ("fit", "V", "--members"),
    ("fit", "BLEND", "--blend"),
    ("submission", "DATA", "--data"),
    ("submit", "C", "--competition"),
    ("predict", "IMAGES", "--images"),
    ("predict", "OUT", "--out"),
    ("predict", "V", "--variant"),
    ("plan", "V", "--variants"),
    ("report", "DATA", "--data"),
    ("disagreement", "V", "--members"),
    ("worker", "SCHEDULER", "--scheduler"),
    ("notebook-push", "F", "--fold"),
    ("notebook-pull", "C", "--competition"),
)


@pytest.mark.parametrize(("verb", "variable", "flag"), TAKEN)
def test_a_value_reaches_the_program_as_it_was_typed(words: Words, verb: str, variable: str, flag: str) -> None:
    # each value once, spread over the verbs, and the worst ones everywhere
    first = TAKEN.index((verb, variable, flag))
    for value in {"it's my $data", *TYPED[first % len(TYPED) :][:1]}:
        program, *_ = words(verb, f"{variable}={value}")
        assert value_of(program, flag) == value
    assert not (ROOT / "x").exists()


@pytest.mark.parametrize("value", TYPED)
def test_whatever_was_typed(words: Words, value: str) -> None:
    programs = words("predict", *(f"{name}={value}" for name in ("IMAGES", "OUT", "V", "C")))
    assert programs == [
        [
            *("-m", "ensemble.photographs", "--images", value, "--out", value),
            *("--competition", value, "--variant", value, "--cutout"),
        ],
        ["-m", "report.photographs", "--images", value, "--out", value],
    ]
    # the same from the environment
    assert words("predict", environment=dict.fromkeys(("IMAGES", "OUT", "V", "C"), value)) == programs
    assert not (ROOT / "x").exists()


def test_an_empty_value_is_the_default(words: Words) -> None:
    for verb in ("data", "fold", "folds", "fit", "submission", "predict", "plan", "report", "notebook-push"):
        names = ("C", "V", "F", "DATA", "IMAGES", "OUT", "BLEND", "ARGS")
        plain = words(verb)
        assert words(verb, *(f"{name}=" for name in names)) == plain
        assert words(verb, *(f"{name}= " for name in names)) == plain
        assert words(verb, environment=dict.fromkeys(names, "")) == plain
        program, *_ = plain
        assert "carvana" in program or "data/carvana" in program
    assert value_of(words("fold")[0], "--fold") == "all"
    assert value_of(words("fit")[0], "--members") == "all"
    assert value_of(words("predict", "C=studio")[0], "--images") == "data/studio/test"
    assert value_of(words("predict", "DATA=my data")[0], "--images") == "my data/test"
    assert value_of(words("predict", "C=studio")[0], "--out") == "runs/studio/masks"


def test_arguments_are_words_of_the_shell(words: Words) -> None:
    (program,) = words("fold", "ARGS=--epochs 3 --tag 's 1' --runs $HOME", environment={"HOME": "/a b"})
    assert program[-6:] == ["--epochs", "3", "--tag", "s 1", "--runs", "/a"] or program[-2:] == ["/a", "b"]


# as the shell reads them, "it's $my runs"
@pytest.mark.parametrize("given", ["--runs 'it'\\''s $my runs' --tag r", "--tag r --runs=it\\''s $my runs'"])
@pytest.mark.parametrize("labels", ["--pseudo x", "--pseudo=x"])
def test_a_round_is_judged_where_it_was_trained(words: Words, labels: str, given: str) -> None:
    train, rounds = words("folds", "C=studio", "DATA=my data", f"ARGS={labels} {given}")
    assert train[:2] == ["-m", "folds.train"]
    assert rounds == [
        *("-m", "ensemble.rounds", "--competition", "studio", "--data", "my data"),
        *("--runs", "it's $my runs"),
    ]
    assert words("folds", f"ARGS={labels} --tag r")[1][-2:] == ["--runs", "runs"]
    for plain in ("", "--runs x", "--pseudo-share 0.5"):
        assert len(words("folds", f"ARGS={plain}")) == 1


@pytest.mark.parametrize("given", ["--runs 'it'\\''s $my runs' --stream", "--stream --runs=it\\''s $my runs'"])
def test_every_step_of_a_verb_finds_the_results_where_they_are(words: Words, given: str) -> None:
    fit, submit = words("ensemble", "C=studio", "DATA=my data", "V=a,b", f"ARGS={given}")
    assert fit == [
        *("-m", "ensemble.fit", "--competition", "studio", "--data", "my data", "--members", "a,b"),
        *("--runs", "it's $my runs"),
    ]
    assert submit[:2] == ["-m", "submit.make"]
    assert "it's $my runs" in " ".join(submit)
    assert "--stream" in submit
    *_, fit, submit, report = words("demo", f"ARGS={given}")
    for program in (fit, report):
        assert program[-2:] == ["--runs", "it's $my runs"]
    # a program that is asked for by name takes all
    assert words("report", "ARGS=--images 3 --runs x")[0][-4:] == ["--images", "3", "--runs", "x"]


def refused(*given: str) -> str:
    """What make says of words that it does not take; no program may have been started."""
    command = ["make", "-n", "-o", "setup", *given]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    return done.stderr


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("COMPETITION=salt", "C"),
        ("c=salt", "C"),
        ("v=a", "V"),
        ("f=0", "F"),
        ("FOLD=0", "F"),
        ("OUTPUT=x", "OUT"),
        ("IMAGE=x", "IMAGES"),
        ("SHEDULER=x", "SCHEDULER"),
        ("BLENDS=x", "BLEND"),
        ("it's=x", "TEST"),
        ("ARG=--stream", "ARGS"),
    ],
)
@pytest.mark.parametrize("verb", ["submit", "fold", "predict"])
def test_a_misspelt_variable_is_refused_with_the_nearest_one(verb: str, given: str, nearest: str) -> None:
    sentence = refused(verb, given)
    assert f"{given.partition('=')[0]} is no variable of this Makefile: did you mean {nearest}=...?" in sentence


def test_the_environment_may_hold_anything(words: Words) -> None:
    assert words("fold", environment={"COMPETITION": "salt", "f": "0"}) == words("fold")


@pytest.mark.parametrize("given", ["C=carvana", "C=salt", "V=unet", "V=", "C="])
@pytest.mark.parametrize("verb", ["demo", "demo-depth"])
def test_the_demo_fetches_nothing(verb: str, given: str) -> None:
    sentence = refused(verb, given)
    assert f"make {verb} is for the competition that comes along: leave {given[0]} out" in sentence


def test_a_word_that_is_no_verb_is_refused_before_the_verb_beside_it_has_run() -> None:
    assert "as in make test ARGS='tests/test_makefile.py'" in refused("test", "tests/test_makefile.py")
    assert "as in make fold ARGS='unet'" in refused("fold", "unet")
    assert "make help lists them" in refused("ensembel")


def test_help_survives_any_value() -> None:
    done = subprocess.run(["make", 'DATA=it\'s "mine" $x'], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 'it\'s "mine" $x' in done.stdout


def test_a_range_of_folds_reaches_the_program_as_it_is_written(words: Words) -> None:
    (program,) = words("fold", "V=average-mask", "F=0..4", "DATA=x")
    assert program == [
        *("-m", "folds.train", "--competition", "carvana", "--data", "x"),
        *("--variant", "average-mask", "--fold", "0..4"),
    ]


def test_data_is_rendered_for_the_studio_and_fetched_for_the_others(words: Words) -> None:
    assert words("data", "C=studio") == [["-m", "studio.render", "--out", "data/studio"]]
    assert words("data") == [["-m", "kaggle_client.download", "--competition", "carvana", "--data", "data/carvana"]]


def test_ensemble_restricts_members_and_forces_a_blend(words: Words) -> None:
    for given, flags in (
        (["V=a,b", "BLEND=greedy"], ["--members", "a,b", "--blend", "greedy"]),
        ([], ["--members", "all"]),
    ):
        fit, submission = words("ensemble", *given)
        assert fit[-len(flags) :] == flags
        assert submission[:2] == ["-m", "submit.make"]


def test_all_variants_are_those_that_disagreement_finds(words: Words) -> None:
    for given, members in (("all", ""), ("", ""), ("a,b", "a,b")):
        assert value_of(words("disagreement", f"V={given}")[0], "--members") == members


def test_plan_takes_the_blend_or_variants(words: Words) -> None:
    for given in ("", "a,b"):
        (program,) = words("plan", "C=studio", f"V={given}", "ARGS=--sample 8")
        assert program == [
            *("-m", "submit.plan", "--competition", "studio", "--data", "data/studio"),
            *("--variants", given, "--sample", "8"),
        ]


def test_the_demo_trains_from_what_comes_along_and_blends_all_of_it() -> None:
    # a value of that name in the caller's environment is none of its business
    environment = {**os.environ, "TRAINING": "--x", "MEMBERS": "x", "FITTING": "--x"}
    done = subprocess.run(
        ["make", "-n", "-o", "setup", "demo"], cwd=ROOT, capture_output=True, text=True, check=True, env=environment
    )
    programs = {
        words[words.index("-m") + 1]: words for words in map(shlex.split, done.stdout.splitlines()) if "-m" in words
    }
    train = programs["folds.train"]
    starts = value_of(train, "--init-from").split(",")
    assert len(starts) == len(value_of(train, "--tag").split(",")) >= 2
    assert all((ROOT / start / "seen.json").exists() for start in starts)
    assert value_of(programs["ensemble.fit"], "--members") == "all"
    assert "--x" not in done.stdout
    # what it says comes next finds a blend on a fresh machine
    assert re.search(r"make predict IMAGES=\S+ ARGS='--runs trained'", done.stdout)
    assert (ROOT / "trained" / "carvana" / "blend" / "blend.json").exists()
