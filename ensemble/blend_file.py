"""A blend on disk, `runs/<competition>/<blend>/`: the names of its files, and reading it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from command_line import UserError
from ensemble.repairs import REPAIRS
from ensemble.voting import LINEAR, VOTES
from folds.logit_code import LIMIT
from folds.run_layout import trained_runs
from json_file import Count, Digest, FolderName, Interval, Schema, Share, extensible
from kernels.metrics import Metric, check_scores, metric_in
from path_names import inside

BLEND_FILE = "blend.json"
# trained networks that come along
_SHIPPED = "trained"
# of boosted pixels: their trees, and what they are of; and as `vote` names them, the one that has learned something, of
# which `stacker_digest` is
TREES_FILE = "pixels.safetensors"
PIXELS_FILE = "pixels.json"
# what people may want to know of them
PIXELS_REPORT_FILE = "pixels_report.json"
PIXELS_VOTE = "pixels"
SUBMISSION_FILE = "submission.csv.gz"
# its parts while it is made
SHARDS_DIR = "shards"
# written where the test truth is known
SCORE_FILE = "test_score.json"
CONTACT_SHEET_FILE = "contact_sheet.png"
REPORT_FILE = "report.html"
# the large pictures that the page links to
REPORT_PICTURES_DIR = "report"
# of test images, where networks disagree
DISAGREEMENT_FILE = "disagreement.csv"
DISAGREEMENT_PAGE_FILE = "disagreement.html"
DISAGREEMENT_PICTURES_DIR = "disagreement"


def blend_folder(root: Path, name: str) -> Path:
    """Where the blend `name` is in `runs/<competition>`; UserError where that is no name of a folder."""
    return inside(root, name, "the name of the blend")


def scores_file(metric: Metric) -> str:
    """The name of the file that has every training image's score.

    >>> from kernels.metrics import DICE
    >>> scores_file(DICE)
    'oof_dice.csv'
    """
    return f"oof_{metric.name}.csv"


_Weight = Annotated[float, Field(ge=0, le=1 + 1e-6)]


@extensible
class Figures(TypedDict):
    """Scores of images: the mean, under the metric's name, its interval, the worst."""

    interval: Interval
    worst: Share
    nested: NotRequired[list[str]]
    weights: NotRequired[dict[str, _Weight]]


def scored(figures: Mapping[str, Any]) -> Any:
    """The figures, which must hold a score; for `AfterValidator`. ValueError where they do not."""
    metric_in(figures)
    check_scores(figures)
    return figures


_Scored = Annotated[Figures, AfterValidator(scored)]


@extensible
class Gain(TypedDict):
    """A mean of differences, and its interval."""

    gain: float
    interval: Interval


@extensible
class GainOverBest(Gain):
    """What the blend is above its best member as it is."""

    member: FolderName


@extensible
class ThresholdFit(TypedDict):
    """A fitted threshold and its worth."""

    fitted: float
    nested_gain: float
    interval: Interval
    kept: bool


@extensible
class RepairFigures(TypedDict):
    """A repair of the mask and its worth."""

    size_px: Count
    nested_gain: float
    interval: Interval
    worst_loss: NotRequired[Share]
    with_rare_losses: NotRequired[float]
    kept: bool


@extensible
class PresenceFit(TypedDict):
    """A threshold on what networks say of an image as a whole, and its worth."""

    threshold: float
    nested_gain: float
    interval: Interval
    worst_loss: NotRequired[Share]
    with_rare_losses: NotRequired[float]
    changed_images: Share
    kept: bool


@extensible
class FittedPresence(TypedDict):
    """What empties masks of images in which networks see nothing."""

    threshold: float
    members: Annotated[list[FolderName], Field(min_length=1)]


@extensible
class ChosenWithout(TypedDict):
    """What was chosen without a fold."""

    kind: str


@extensible
class Expected(TypedDict):
    """Where the score of the test set is to be expected."""

    groups: Count
    interval: Interval
    averaged_folds: NotRequired[Count]
    submission_averaged_folds: NotRequired[Count]


@extensible
class Foreground(TypedDict):
    """How much foreground the training masks have: the share of empty masks, and of the others the least and the most
    of the frame that one covers."""

    empty: Share
    least: Share
    most: Share


@extensible
class AgreementLimit(TypedDict):
    """How little networks may agree on a picture that they know (`ensemble.agreement_limit`)."""

    limit: Share
    share: Share
    images: Count


@extensible
class FittedBlend(TypedDict):
    """The content of blend.json; FORMATS.md tells what each field means. What older files lack is `NotRequired`."""

    name: FolderName
    kind: str
    vote: NotRequired[str]
    members: Annotated[list[FolderName], Field(min_length=1)]
    weights: list[_Weight]
    threshold: Annotated[float, Field(gt=-LIMIT, lt=LIMIT)]
    cv: _Scored
    gain_over_best: NotRequired[GainOverBest]
    gains: NotRequired[dict[str, Gain]]
    chosen_without: NotRequired[dict[str, ChosenWithout]]
    expected: NotRequired[Expected | None]
    foreground: NotRequired[Foreground]
    agreement: NotRequired[AgreementLimit]
    member_cv: dict[str, _Scored]
    candidates: dict[str, _Scored]
    not_searched: NotRequired[list[str]]
    threshold_fit: ThresholdFit | None
    postprocess: NotRequired[dict[str, RepairFigures]]
    postprocess_kept: NotRequired[list[tuple[str, Count]]]
    presence_fit: NotRequired[PresenceFit]
    presence: NotRequired[FittedPresence]
    stacker_digest: NotRequired[Digest]
    weights_digests: dict[str, Digest]
    folds_digest: str
    data_digest: str


def _check(blend: FittedBlend) -> None:
    members = blend["members"]
    if len(set(members)) < len(members):
        double = next(name for name in members if members.count(name) > 1)
        raise ValueError(f"members names {double!r} twice")
    if len(blend["weights"]) != len(members):
        raise ValueError(
            f"weights has {len(blend['weights'])} entries, expected one for each of {len(members)} members"
        )
    if abs(sum(blend["weights"]) - 1) > _ROUNDING:
        raise ValueError(f"weights sum to {sum(blend['weights']):g}, expected 1")
    vote, votes = blend.get("vote", LINEAR.label), (LINEAR.label, *VOTES, PIXELS_VOTE)
    if vote not in votes:
        raise ValueError(f"vote is {vote!r}, expected one of {', '.join(votes)}")
    if vote == PIXELS_VOTE and "stacker_digest" not in blend:
        raise ValueError("stacker_digest is missing")
    for field, known in (("weights_digests", blend["weights_digests"]), ("member_cv", blend["member_cv"])):
        if lacking := [name for name in members if name not in known]:
            raise ValueError(f"{field}.{lacking[0]} is missing")
    asked = blend["presence"]["members"] if "presence" in blend else []
    if stray := [name for name in asked if name not in members]:
        raise ValueError(f"presence.members names {stray[0]!r}, which is no member")
    for name, _ in blend.get("postprocess_kept", []):
        if name not in REPAIRS:
            raise ValueError(f"postprocess_kept names {name!r}, expected one of {', '.join(REPAIRS)}")


@extensible
class _TestScore(TypedDict):
    """The content of test_score.json: `test_` and the metric's name, the score."""

    truth: NotRequired[str]


def _check_test_score(content: _TestScore) -> None:
    check_scores(content, "test_")


TEST_SCORE = Schema(_TestScore, "make the submission again (make submission), or remove the file", _check_test_score)

# of weights that were written as decimal fractions
_ROUNDING = 1e-6

BLEND = Schema(FittedBlend, "choose the blend again (make fit)", _check)


def _first_step(folder: Path) -> str:
    """What is to be done before there is a blend in `folder`."""
    root = folder.parent
    if trained_runs(root):
        blends = sorted(each.parent.name for each in root.glob(f"*/{BLEND_FILE}"))
        return "choose it first (make fit)" + (f", or name one that is there: {', '.join(blends)}" if blends else "")
    shipped = _SHIPPED if (Path(_SHIPPED) / root.name).is_dir() and root.parent != Path(_SHIPPED) else ""
    use = f", or use the networks that come with this repository (ARGS='--runs {shipped}')" if shipped else ""
    return f"nothing is trained in {root} yet; train variants and choose it (make folds V=..., then make fit){use}"


def read_blend(folder: Path) -> FittedBlend:
    """The blend that `ensemble.fit` wrote.

    Raises:
        UserError: there is none, or it is damaged.
    """
    path = folder / BLEND_FILE
    try:
        return BLEND.read(path)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {_first_step(folder)}.") from None
