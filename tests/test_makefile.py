"""The verbs: listed, explained, and handed to the right program."""

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_every_verb_is_phony_and_explained() -> None:
    text = (ROOT / "Makefile").read_text()
    phony = set(re.findall(r"^\.PHONY: (.*)$", text.replace("\\\n", " "), re.MULTILINE)[0].split())
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


def test_a_range_of_folds_reaches_the_program_as_it_is_written() -> None:
    done = subprocess.run(
        ["make", "-n", "fold", "V=average-mask", "F=0..4", "DATA=x", "-o", "setup"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '--competition carvana --data x --variant "average-mask" --fold 0..4' in done.stdout


def test_data_is_rendered_for_the_studio_and_fetched_for_the_others() -> None:
    for competition, program in (
        ("studio", "studio.render --out data/studio"),
        ("carvana", "kaggle_client.download --comp"),
    ):
        done = subprocess.run(
            ["make", "-n", "data", f"C={competition}", "-o", "setup"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert program in done.stdout


def test_predict_names_its_folders() -> None:
    done = subprocess.run(
        ["make", "-n", "predict", "C=studio", "IMAGES=my photos", "OUT=x", "-o", "setup"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert (
        '-m ensemble.photographs --images "my photos" --out "x" --competition studio --variant "" --cutout'
        in done.stdout
    )


def test_ensemble_restricts_members_and_forces_a_blend() -> None:
    for given, flags in (
        (["V=a,b", "BLEND=greedy"], '--members "a,b" --blend "greedy"'),
        ([], '--members "all"'),
    ):
        done = subprocess.run(
            ["make", "-n", "ensemble", *given, "-o", "setup"], cwd=ROOT, capture_output=True, text=True, check=True
        )
        assert flags in done.stdout


def test_plan_takes_the_blend_or_variants() -> None:
    for given in ("", "a,b"):
        done = subprocess.run(
            ["make", "-n", "plan", "C=studio", f"V={given}", "ARGS=--sample 8", "-o", "setup"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        assert f'-m submit.plan --competition studio --data data/studio --variants "{given}" --sample 8' in done.stdout
