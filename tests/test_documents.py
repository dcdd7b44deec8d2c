"""The documents name nothing that is not there: commands, flags, files, registries, variants, and the whole tree."""

from __future__ import annotations

import ast
import csv
import functools
import importlib.util
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from folds.recipes import RECIPES
from models.variant import Variant
from models.variants import VARIANTS

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "FORMATS.md", "CHANGELOG.md", "notebooks/README.md",
    "trained/carvana/README.md",
    "trained/salt/README.md",
    "trained/fast/carvana/README.md",
)  # fmt: skip
LAYERS = [
    layer.split(" | ")
    for layer in tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][0]["layers"]
]
PACKAGES = [*(package for layer in LAYERS for package in layer), "studio"]
MAKEFILE = (ROOT / "Makefile").read_text()
VERBS = set(re.findall(r"^([a-z-]+):.*## ", MAKEFILE, re.MULTILINE))
MAKE_VARIABLES = set(re.findall(r"^([A-Z]+) +\?=", MAKEFILE, re.MULTILINE))
# what commands of other programs may follow in our documents
FOREIGN = ("kaggle ", "dask ", "pip ")


def fences(text: str) -> list[str]:
    """The contents of fenced blocks."""
    return re.findall(r"^```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def spans(text: str) -> list[str]:
    """The code spans outside of fenced blocks, line breaks in them taken out."""
    prose = re.sub(r"^```\w*\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def commands(text: str) -> Iterator[list[str]]:
    """Words of every `make ...` and `python -m ...` that a document names, without comments and environment."""
    lines = [line for block in fences(text) for line in block.replace("\\\n", " ").splitlines()]
    for line in (*lines, *spans(text)):
        for part in line.split("&&"):
            command = re.sub(r"^([A-Z_]+=\S+ )*", "", part.strip())
            if command.startswith(("make ", "python -m ")):
                yield shlex.split(command, comments=True)


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def source_files() -> list[Path]:
    """Every file of the packages and of the root, `__init__.py` left out."""
    found = [*ROOT.glob("*.py"), *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
    return [path for path in found if path.name != "__init__.py"]


@functools.cache
def parameters(module: str) -> frozenset[str]:
    """Parameters of a program's `main`, read from its source: no program is imported for it."""
    path = ROOT / Path(*module.split("."))
    module_tree = tree_of(path / "__main__.py" if path.is_dir() else path.with_suffix(".py"))
    for node in module_tree.body:
        if isinstance(node, ast.FunctionDef) and node.name == "main":
            return frozenset(argument.arg for argument in (*node.args.args, *node.args.kwonlyargs))
    for node in module_tree.body:
        if isinstance(node, ast.ImportFrom) and any(alias.name == "main" for alias in node.names):
            return parameters(node.module or "")
    raise AssertionError(f"{module} has no main")


def is_program(path: Path) -> bool:
    return "tyro.cli(main, prog=main.command)" in path.read_text()


def programs() -> list[str]:
    return [
        ".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        for p in source_files()
        if is_program(p)
    ]


def flag(word: str) -> str:
    """The parameter that `--no-wait` or `--init-from` sets."""
    return word.removeprefix("--").partition("=")[0].replace("-", "_")


def check_python(words: list[str]) -> None:
    """`python -m x.y --flag ...`: the module is there, and its program knows the flags."""
    words = words[words.index("-m") :]
    module = words[1]
    assert importlib.util.find_spec(module), f"no module {module}"
    if module.partition(".")[0] in PACKAGES:
        known = parameters(module)
        asked = {flag(word) for word in words if word.startswith("--")}
        strange = {name for name in asked - {"help"} if name not in known and name.removeprefix("no_") not in known}
        assert not strange, f"{module} takes no --{', --'.join(sorted(strange))}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_can_be_given(document: str) -> None:
    for words in commands((ROOT / document).read_text()):
        if words[0] == "python":
            check_python(words)
            continue
        asked = [word for word in words[1:] if "=" not in word]
        assert asked and set(asked) <= VERBS, words
        assert {word.partition("=")[0] for word in words if "=" in word} <= MAKE_VARIABLES, words
        # what make would run, with the flags of ARGS where they arrive; a make that runs the tests passes nothing on
        dry = subprocess.run(
            ["make", "-n", "-o", "setup", *words[1:]],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"]},
            capture_output=True,
            text=True,
        )
        assert dry.returncode == 0, dry.stderr
        for line in dry.stdout.splitlines():
            if " -m " in line:
                check_python(shlex.split(line))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_flag_belongs_to_a_program(document: str) -> None:
    known = frozenset().union(*map(parameters, programs()))
    for span in spans((ROOT / document).read_text()):
        if not span.startswith((*FOREIGN, "make ", "python ")):
            for word in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
                assert flag(word) in known or flag(word).removeprefix("no_") in known, f"{document}: {word}"


def _sentences(tree: ast.Module) -> Iterator[str]:
    """The texts that programs print: every string but docstrings, an f-string with its values left out."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def test_every_flag_and_verb_of_a_message_is_there() -> None:
    known = frozenset().union(*map(parameters, programs()))
    for path in source_files():
        if path.parent.name == "inside_client" or path.is_relative_to(ROOT / "tests"):
            continue
        for text in _sentences(tree_of(path)):
            # a sentence, not a word of another program's command line
            for word in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text) if " " in text else ():
                there = flag(word) in known or flag(word).removeprefix("no_") in known
                assert there or text.startswith(FOREIGN), f"{path.relative_to(ROOT)}: {word} in {text!r}"
            for verb in re.findall(r"\(make ([a-z]+(?:-[a-z]+)*)", text):
                assert verb in VERBS, f"{path.relative_to(ROOT)}: make {verb} in {text!r}"


@pytest.mark.parametrize("document", (*DOCUMENTS, "EXPERIMENTS.md"))
def test_every_file_is_there(document: str) -> None:
    text = (ROOT / document).read_text()
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        assert "://" in target or ((ROOT / document).parent / target).exists(), f"{document} links to {target}"
    names = {"__init__.py", *(path.name for path in source_files())}
    for span in spans(text):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*/?", span):
            continue
        first = span.partition("/")[0]
        ours = "/" in span and (ROOT / first).is_dir() and first not in ("data", "runs")
        if ours or span.endswith((".py", ".md", ".toml", ".yml")):
            assert (ROOT / span).exists() or span in names, f"{document} names {span}"


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_module_registry_and_class_is_there(document: str) -> None:
    assigned, classes, sources = set(MAKE_VARIABLES), {"Makefile"}, ""
    for path in source_files():
        sources += path.read_text()
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef):
                classes.add(node.name)
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            assigned |= {target.id for target in targets if isinstance(target, ast.Name)}
    for span in spans((ROOT / document).read_text()):
        if re.fullmatch(r"[A-Z][A-Z_]+", span):
            # a name, or a variable of the environment
            assert span in assigned or re.search(rf"\b{span}\b", sources), f"{document} names {span}"
        elif re.fullmatch(r"(?:[A-Z][a-z]+)+", span):
            assert span in classes, f"{document} names the class {span}"
        elif re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.[a-z_]+)+", span) and not span.endswith((".csv", ".html")):
            assert importlib.util.find_spec(".".join(span.split(".")[:2])), f"{document} names {span}"


def test_every_writer_of_a_file_is_a_module() -> None:
    cells = re.findall(r"^\| `[^|]*\| ([^|]*) \|", (ROOT / "FORMATS.md").read_text(), re.MULTILINE)
    writers = [name for cell in cells for name in cell.split(", ") if name.partition(".")[0] in PACKAGES]
    assert len(writers) > 20
    assert not [name for name in writers if not importlib.util.find_spec(name)]


def test_every_verb_is_told_of() -> None:
    told = "".join((ROOT / document).read_text() for document in ("README.md", "CONTRIBUTING.md"))
    assert not [verb for verb in VERBS if not re.search(rf"make {verb}\b(?!-)", told)]


def test_the_tree_is_whole() -> None:
    (tree,) = (block for block in fences((ROOT / "ARCHITECTURE.md").read_text()) if "\nkernels/" in block)
    listed: dict[Path, str] = {}
    folders: list[str] = []
    for line in filter(str.strip, tree.splitlines()):
        name, _, what = line.strip().partition(" ")
        depth = (len(line) - len(line.lstrip())) // 2
        folders = [*folders[:depth], name]
        path = ROOT.joinpath(*folders)
        assert path.exists(), f"{path} is in the tree alone"
        assert path not in listed, f"{path} is listed twice"
        assert what.strip(), f"{path} says nothing of itself"
        listed[path] = what.strip()
    assert set(source_files()) == {path for path in listed if path.suffix == ".py"}
    told = {path for path, what in listed.items() if what.startswith("PROGRAM")}
    assert told == {path for path in source_files() if is_program(path)}


def test_the_packages_stand_in_the_order_of_the_contract() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    (stack,) = (block for block in fences(text) if "benchmarks │ notebooks" in block)
    drawn = [re.split(r"\s{2,}", line.strip())[0].split(" │ ") for line in stack.splitlines()]
    assert drawn[: len(LAYERS)] == LAYERS


@dataclass(frozen=True)
class Row:
    """A row of README's table of variants."""

    variants: list[Variant]
    sizes: list[str]
    parameters: str
    weights: str
    recipes: list[str]


def variant_rows() -> list[Row]:
    rows = []
    _, table = (ROOT / "README.md").read_text().split("| variant |")
    for line in table.split("\n\n")[0].splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        first, *others = re.findall(r"`([^`]+)`", cells[0])
        # `unet-resnet34-512`, `-1024`: one family
        names = [first, *(first.rpartition("-")[0] + other for other in others)]
        found = [VARIANTS[name] for name in names]
        rows.append(Row(found, cells[2].split("; "), cells[3], cells[5], re.findall(r"`([^`]+)`", cells[6])))
    return rows


def shipped_variants() -> set[str]:
    runs = {path.parents[1].name for path in (ROOT / "trained").rglob("fold0/weights.safetensors")}
    # the run of a tag is called <variant>-<tag>
    return {max((v for v in VARIANTS if f"{run}-".startswith(f"{v}-")), key=len) for run in runs}


def test_the_table_has_every_variant_as_it_is() -> None:
    rows, shipped = variant_rows(), shipped_variants()
    assert sorted(variant.name for row in rows for variant in row.variants) == sorted(VARIANTS)
    for row in rows:
        assert row.sizes == [f"{v.size[0]}x{v.size[1]}" for v in row.variants]
        assert set(row.recipes) <= set(RECIPES)
        for variant in row.variants:
            assert variant.recipe in row.recipes, variant.name
            assert ("shipped" in row.weights) == (variant.name in shipped), variant.name
            assert ("ImageNet" in row.weights) == (variant.weights == "imagenet"), variant.name


def test_the_table_counts_parameters_right(monkeypatch: pytest.MonkeyPatch) -> None:
    # as in test_models_variants: nothing is computed on the meta device
    import torch

    from models.build import build, parameter_count

    monkeypatch.setattr(torch, "linspace", functools.partial(torch.linspace, device="cpu"))
    for row in variant_rows():
        if not row.variants[0].fitted:
            with torch.device("meta"):
                count = parameter_count(build(row.variants[0], pretrained=False))
            assert row.parameters.split()[0] == f"{count:,}", row.variants[0].name


def test_the_picture_of_predictions_is_small() -> None:
    assert (ROOT / "docs/predictions.png").stat().st_size <= 250_000


def _first_group(match: re.Match[str] | None) -> str:
    assert match is not None
    return match[1]


def test_experiments_are_dated_and_their_series_are_linked() -> None:
    text = (ROOT / "EXPERIMENTS.md").read_text()
    board, *entries = re.findall(r"^## (.*)$", text, re.MULTILINE)
    dates = [_first_group(re.fullmatch(r"(\d{4}-\d\d-\d\d): .{10,}", entry)) for entry in entries]
    assert dates == sorted(dates, reverse=True)
    ranked = text.partition(f"## {board}")[2].partition("\n## ")[0]
    assert 1 <= ranked.count("\n| ") - 1 <= 10
    for path in (ROOT / "experiments").glob("*.csv"):
        assert f"](experiments/{path.name})" in text
        head, *rows = csv.reader(path.open(newline=""))
        assert rows and all(len(row) == len(head) for row in rows), path.name
        assert {row[head.index("variant")] for row in rows if "variant" in head} <= set(VARIANTS)


def test_hosted_checks_run_verbs() -> None:
    workflow = (ROOT / ".github/workflows/ci.yml").read_text()
    assert set(_first_group(re.search(r"verb: \[(.*)\]", workflow)).split(", ")) == {"check", "test"} <= VERBS
    wanted = _first_group(re.search(r"^PYTHON \?= python(.*)$", MAKEFILE, re.MULTILINE))
    assert f'python-version: "{wanted}"' in workflow
