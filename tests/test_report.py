"""The report of a small runs folder: what its page holds, in a browser too, and where networks disagree."""

from __future__ import annotations

import base64
import html.parser
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
import zarr
from PIL import Image

from competition import COMPETITIONS
from ensemble import fit, pixel_report
from folds.store import LogitStore
from folds.train import main as train
from models import checkpoint
from report import disagreement
from report import write as report
from report.boundary import ZOOM
from report.pictures import Album
from tests.conftest import CARS, ellipse, read_picture, write_ellipses
from tests.synthetic_runs import forget_logits_digests

CARVANA = COMPETITIONS["carvana"]


def write_metadata(data: Path) -> None:
    makes = ["Alpha", "Beta"]
    rows = [{"id": car, "make": makes[i % 2], "year": 2000} for i, car in enumerate(CARS)]
    pd.DataFrame(rows).to_csv(data / "metadata.csv", index=False)


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A competition folder and a runs folder with two variants, a blend and its report.

    The logits are written, not predicted: of two networks, each is wrong in its own place, and for one image both are
    wrong in the same place, as they would be with a wrong label.
    """
    base = tmp_path_factory.mktemp("report")
    data = write_ellipses(base / "data")
    write_metadata(data)
    runs = base / "runs"
    train("carvana", "average-mask", data=data, runs=runs, folds=3, jobs=1)
    root = runs / "carvana"
    shutil.copytree(root / "average-mask", root / "unet-mobilenetv3")
    for fold in (root / "unet-mobilenetv3").glob("fold*"):
        for file in ("manifest.json", checkpoint.VARIANT_FILE):
            content = json.loads((fold / file).read_text())
            target = content["variant"] if file == "manifest.json" else content
            target["name"] = "unet-mobilenetv3"
            (fold / file).write_text(json.dumps(content))
        (fold / "metrics.csv").write_text(
            "epoch,step,train_loss,val_dice,val_loss\n0,9,,0.9,0.1\n0,9,0.2,,\n1,19,,0.95,0.1\n"
        )
    forget_logits_digests(root)
    for which, variant in enumerate(("average-mask", "unet-mobilenetv3")):
        store = LogitStore.open(root / variant / "oof.zarr")
        height, width = store.shape[1:]
        for i, name in enumerate(store.names):
            car, view = name.removesuffix(".jpg").split("_")
            mask = ellipse(10 * CARS.index(car) + int(view) - 1).astype(np.uint8)
            small = cv2.resize(mask, (width, height), interpolation=cv2.INTER_AREA).astype(bool)
            own = slice(2, 4 + which) if which else slice(-5, -2)
            small[own, 2:20] = True
            if i == 3:
                small[: height // 4] = True
            store.write(name, np.where(small, 3.0, -3.0)[None].astype(np.float32))
    fit.main(data=data, runs=runs, jobs=1)
    (root / "average-mask" / "tta.json").write_text(
        json.dumps(
            {
                "variant": "average-mask",
                "plain": {"dice": 0.9, "interval": [0.85, 0.95]},
                "each": [
                    {"transforms": ["hflip"], "dice": 0.91, "gain": 0.01, "interval": [0.005, 0.015], "passes": 2.0}
                ],
                "all": {"transforms": ["hflip"], "dice": 0.91, "gain": 0.01, "interval": [0.005, 0.015], "passes": 2.0},
                "chosen": {"transforms": [], "dice": 0.9, "gain": 0.0, "interval": [0.0, 0.0], "passes": 1.0},
            }
        )
    )
    report.main(data=data, runs=runs, jobs=1)
    return data, root


class Page(html.parser.HTMLParser):
    """What a page refers to, its text, and whether its tags are balanced."""

    VOID = frozenset({"meta", "link", "img", "source", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.uris: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.alts: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self._open.append(tag)
        if tag == "img":
            self.uris.append(values["src"] or "")
            self.alts.append(values["alt"] or "")
        if tag == "source":
            self.uris.append(values["srcset"] or "")
        if tag == "a":
            self.links.append(values["href"] or "")
        if "id" in values:
            self.ids.append(values["id"] or "")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_page(path: Path, width_px: int | None = 360) -> Page:
    """Everything the page shows is in it and can be decoded; what it links to is beside it; nothing is left over."""
    text = path.read_text()
    page = Page(text)
    assert page.uris and all(page.alts)
    for uri in page.uris:
        head, content = uri.split(",", 1)
        data = base64.b64decode(content, validate=True)
        if head == "data:image/svg+xml;base64":
            assert b"</svg>" in data
        else:
            assert head in ("data:image/png;base64", "data:image/jpeg;base64")
            found = Image.open(io.BytesIO(data)).width
            assert width_px is None or found in (width_px, ZOOM * pixel_report.ZOOM[1])
    for link in page.links:
        if link.startswith("#"):
            assert link[1:] in page.ids
        else:
            large = Image.open(path.parent / link)
            assert (large.height, large.width) == CARVANA.size
    bare = re.sub(r"data:[a-z/+;0-9]*,[A-Za-z0-9+/=]*", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<script[^>]+src", bare)
    assert not re.search(r"\{\{|\}\}|\{%|%\}|\bnan\b|\bNone\b|Undefined", bare)
    return page


def test_the_page_holds_every_part_and_nothing_from_outside(reported: tuple[Path, Path]) -> None:
    root = reported[1]
    page = check_page(root / "blend" / "report.html")
    assert set(page.ids) >= {
        "variants",
        "blends",
        "threshold",
        "errors",
        "makes",
        "curves",
        "worst",
        "disputed",
        "suspects",
    }
    for word in ("average-mask", "unet-mobilenetv3", "Alpha", "Beta", "hflip", "fill-holes", "greedy"):
        assert word in page.text, word
    # figures say what they are
    text = " ".join(page.text.split())
    assert "chosen without the fold that is scored (way, weights, threshold, repairs)" in text
    assert "they do not hold that of other seeds, other trainings or another choice of the best epoch" in text
    scores = pd.read_csv(root / "blend" / "oof_dice.csv")
    assert f"{scores['average-mask'].mean():.4f}" in page.text
    assert f"{scores['nested'].min():.4f}" in page.text
    linked = {link.removeprefix("report/") for link in page.links if not link.startswith("#")}
    assert linked == {path.name for path in (root / "blend" / "report").iterdir()}


def test_the_image_that_both_networks_contradict_is_the_first_suspect(reported: tuple[Path, Path]) -> None:
    text = (reported[1] / "blend" / "report.html").read_text()
    name = LogitStore.open(reported[1] / "average-mask" / "oof.zarr").names[3]
    section = text[text.index('id="suspects"') :]
    assert re.findall(r"<strong>([^<]*)</strong>", section)[0] == name


def test_pictures_of_an_earlier_report_go(tmp_path: Path) -> None:
    for name in ("old-truth.png", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    album = Album(tmp_path, "report")
    pane = album.pane("a_01.jpg", "the truth", np.ones((20, 30), bool))
    album.remove_others()
    assert pane.link == "report/a_01-the-truth.png"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a_01-the-truth.png", "notes.txt"]


def test_the_page_is_not_blank_in_a_browser(reported: tuple[Path, Path], tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    page = reported[1] / "blend" / "report.html"
    for width in (1200, 390):
        picture = tmp_path / f"{width}.png"
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                f"--window-size={width},3000", f"--user-data-dir={tmp_path / 'profile'}",
                f"--screenshot={picture}", page.as_uri(),
            ],
            check=True, capture_output=True, timeout=60,
        )  # fmt: skip
        pixels = read_picture(picture)
        assert pixels.shape[:2] == (3000, width)
        for part in np.array_split(pixels[:2400], 4):
            assert part.std() > 5


# says on the console how many pictures the page has and which of them do not show
PROBE = """<script>
Promise.all([...document.images].map(image => {
  image.loading = "eager";
  return image.decode().then(() => null, () => image.alt);
})).then(faults => console.log(`pictures: ${faults.length}, broken: ${faults.filter(fault => fault !== null)}.`));
</script>"""


def console(browser: str, page: Path, profile: Path) -> list[str]:
    """What a browser's console says while it loads a page."""
    done = subprocess.run(
        [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr",
            "--virtual-time-budget=20000", f"--user-data-dir={profile}", "--dump-dom", page.as_uri(),
        ],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    return re.findall(r":CONSOLE[^\]]*\] \"(.*)\", source:", done.stderr)


def test_the_browsers_console_reports_no_error_and_all_pictures_load(
    reported: tuple[Path, Path], tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    text = (reported[1] / "blend" / "report.html").read_text()
    page = tmp_path / "page.html"
    page.write_text(text.replace("</body>", PROBE + "</body>"))
    pictures = len(re.findall("<img ", text))
    assert console(browser, page, tmp_path / "profile") == [f"pictures: {pictures}, broken: ."]
    # an error and a broken picture would have been heard of
    broken = '<img src="data:image/png;base64,AAAA" alt="nothing"><script>missing();</script>'
    page.write_text(text.replace("</body>", broken + PROBE + "</body>"))
    heard = console(browser, page, tmp_path / "profile")
    assert heard == [
        "Uncaught ReferenceError: missing is not defined",
        f"pictures: {pictures + 1}, broken: nothing.",
    ]


# opens the first comparison as a keyboard would, moves its slider, chooses the truth, zooms, and says what shows
DRIVER = """<script>
const at = what => document.querySelector("figure.case " + what);
at("button").focus();
const focused = document.activeElement === at("button");
at("button").click();
at("input").value = 25;
at("input").dispatchEvent(new Event("input"));
at("select").selectedIndex = 1;
at("select").dispatchEvent(new Event("change"));
at(".tools button").click();
const pictures = [...document.querySelectorAll("figure.case .stage img")];
Promise.all(pictures.map(picture => picture.decode())).then(() => console.log([
  focused, at("button").ariaExpanded, at(".tools button").ariaPressed, at(".half").style.clipPath,
  ...pictures.map(picture => picture.alt.split(" ")[0]), pictures[0].naturalWidth,
  getComputedStyle(pictures[1]).transform, document.documentElement.scrollWidth <= innerWidth,
].join(" | ")));
</script>"""


def test_two_pictures_are_compared_with_a_slider_and_a_zoom_at_the_worst_spot(
    reported: tuple[Path, Path], tmp_path: Path
) -> None:
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium on the PATH")
    text = (reported[1] / "blend" / "report.html").read_text()
    # without scripts every picture is there and links to the large one, and nothing that does nothing is shown
    assert "<button" not in text.partition("<script>")[0] and text.count("data-spot") > 2
    page = reported[1] / "blend" / "driven.html"
    page.write_text(text.replace("</body>", DRIVER + "</body>"))
    try:
        (heard,) = console(browser, page, tmp_path / "profile")
    finally:
        page.unlink()
    assert heard == (
        "true | true | true | inset(0px 75% 0px 0px) | blend | truth | 1918 | matrix(8, 0, 0, 8, 0, 0) | true"
    )


def test_disagreement_counts_every_pixel_and_ranks(reported: tuple[Path, Path]) -> None:
    data, root = reported
    shutil.copytree(data / "train", data / "test", dirs_exist_ok=True)
    masks = {}
    for variant in ("average-mask", "unet-mobilenetv3"):
        shutil.copytree(root / variant / "oof.zarr", root / variant / "test.zarr", dirs_exist_ok=True)
        assert zarr.open_array(root / variant / "test.zarr", mode="r").attrs["variant"]
        store = LogitStore.open(root / variant / "test.zarr")
        masks[variant] = {
            n: cv2.resize(store.read(n)[0], CARVANA.size[::-1], interpolation=cv2.INTER_LINEAR) > 0 for n in store.names
        }
    disagreement.main(data=data, runs=root.parent, worst=2, jobs=1)
    table = pd.read_csv(root / "blend" / "disagreement.csv").set_index("image")
    for name, row in zip(table.index.astype(str), table.to_dict("records"), strict=True):
        one, other = (masks[variant][name] for variant in masks)
        assert row["disagreement"] == pytest.approx((one != other).mean(), abs=1e-6)
        assert row["disagreement_of_object"] == pytest.approx((one != other).sum() / (one | other).sum(), abs=1e-6)
    page = check_page(root / "blend" / "disagreement.html")
    assert str(table["disagreement"].idxmax()) in page.text
    assert len(page.links) == 2 * 4


def test_networks_that_have_not_predicted_are_named_and_predict_when_asked(
    reported: tuple[Path, Path], tmp_path: Path
) -> None:
    data, root = tmp_path / "data", tmp_path / "runs" / "carvana"
    shutil.copytree(reported[1], root, ignore=shutil.ignore_patterns("test.zarr", "report", "cache"))
    names = [f"{car}_01.jpg" for car in CARS[1::-1]]
    (data / "test").mkdir(parents=True)
    for name in names:
        shutil.copy(reported[0] / "train" / name, data / "test" / name)
    rows = "".join(f"{name},1 1\n" for name in names)
    (data / "sample_submission.csv").write_text(",".join(CARVANA.header) + "\n" + rows)
    with pytest.raises(SystemExit, match=r"none has predicted the test set.*make disagreement .*--predict"):
        disagreement.main(data=data, runs=root.parent, jobs=1)
    # the second variant is a copy of the first by another name, so both are average masks
    networks = root / "unet-mobilenetv3"
    shutil.rmtree(networks)
    shutil.copytree(root / "average-mask", networks)
    for fold in networks.glob("fold*"):
        content = json.loads((fold / "manifest.json").read_text())
        content["variant"]["name"] = "unet-mobilenetv3"
        (fold / "manifest.json").write_text(json.dumps(content))
    disagreement.main(data=data, runs=root.parent, predict=True, jobs=1)
    for variant in ("average-mask", "unet-mobilenetv3"):
        # in the submission's order, so that a submission finds them
        assert LogitStore.open(root / variant / "test.zarr").names == names
    table = pd.read_csv(root / "blend" / "disagreement.csv")
    assert table["image"].tolist() == names
    assert (table["disagreement"] == 0).all()
