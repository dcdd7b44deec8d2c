"""The table of systems holds what was measured and says so of what was not."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import systems
from folds.recipes import RECIPES


def test_a_row_is_trained_and_tabled_as_its_manifests_say(
    ellipses: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = tmp_path / "runs"
    systems.main(data=ellipses, runs=runs, train="cpu", variants="average-mask,b-unet-768", arguments="--jobs 1")
    rows = [line for line in capfd.readouterr().out.splitlines() if line.startswith("| ")]
    average, published = rows[-2:]
    manifests = [json.loads((runs / f"carvana/average-mask/fold{k}/manifest.json").read_text()) for k in range(5)]
    images = [m["images"]["held_out"] for m in manifests]
    mean = sum(m["dice"] * n for m, n in zip(manifests, images, strict=True)) / sum(images)
    assert f"| 0.7434 | {mean:.4f} (" in average
    assert manifests[0]["hardware"] in average
    assert "not yet measured, needs a GPU" in published
    assert "epoch" not in average
    # as if the epoch had been chosen by the images that are scored
    for fold, manifest in enumerate(manifests):
        path = runs / f"carvana/average-mask/fold{fold}/manifest.json"
        path.write_text(json.dumps(manifest | {"last_dice": manifest["dice"] - 0.2 * (fold == 0)}))
    systems.main(data=ellipses, runs=runs, variants="average-mask")
    last = mean - 0.2 * images[0] / sum(images)
    assert f"), the best epoch's; the last one's {last:.4f} |" in capfd.readouterr().out
    # as if its authors had trained for longer
    own = next(s for s in systems.SYSTEMS if s.variant == "average-mask")
    trained = manifests[0]["recipe"]["epochs"]
    monkeypatch.setattr(systems, "SYSTEMS", (replace(own, epochs=trained + 3),))
    systems.main(data=ellipses, runs=runs)
    assert f", {trained} of {trained + 3} epochs, " in capfd.readouterr().out


def test_a_cpu_trains_published_networks_for_fewer_epochs(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        commands.append(command)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(systems.subprocess, "run", run)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    for train in ("cpu", "gpu", "all"):
        commands.clear()
        systems.main(data=ellipses, runs=tmp_path, train=train)
        trained = {command[command.index("--variant") + 1]: command for command in commands}
        for system in systems.SYSTEMS:
            on_cpu = system.needs == "cpu" or system.cpu_epochs > 0
            assert (system.variant in trained) == (
                train == "all" or system.needs == train or (train == "cpu" and on_cpu)
            )
            if system.variant in trained:
                command = trained[system.variant]
                told = int(command[command.index("--epochs") + 1]) if "--epochs" in command else 0
                assert told == (system.cpu_epochs if train == "cpu" and system.needs == "gpu" else system.epochs)


def test_unknown_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="unet-of-dreams; those there are: average-mask"):
        systems.main(runs=tmp_path, variants="average-mask,unet-of-dreams")


def test_a_cpu_leaves_alone_what_was_begun_for_more_epochs(
    ellipses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained: list[str] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        trained.append(command[command.index("--variant") + 1])
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(systems.subprocess, "run", run)
    (system,) = (s for s in systems.SYSTEMS if s.variant == "a-unet-128")
    folder = tmp_path / "carvana" / system.variant / "fold0"
    folder.mkdir(parents=True)
    for epochs, left in ((system.cpu_epochs + 1, True), (system.cpu_epochs, False)):
        trained.clear()
        (folder / "recipe.json").write_text(json.dumps(replace(RECIPES["a-unet"], epochs=epochs).to_json()))
        systems.main(data=ellipses, runs=tmp_path, train="cpu", variants=system.variant)
        assert trained == ([] if left else [system.variant])
        assert (f"{system.name} was begun for {epochs} epochs, and is left as it is" in capsys.readouterr().out) == left
