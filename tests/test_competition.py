import ast
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from command_line import UserError
from competition import COMPETITIONS, find_competition

ROOT = Path(__file__).parent.parent


# per competition the name of an image, its group, its view, and what stands for it in a row
_CAR = ("0123456789ab_07.jpg", "0123456789ab", "07", "0123456789ab_07.jpg")
_COMPOSITE = "0123abcd_bg_1_fg.2_07m.png"
EXAMPLES = {
    "carvana": _CAR,
    "studio": _CAR,
    "composites": (_COMPOSITE, "0123abcd", None, _COMPOSITE),
    "salt": ("0123456789.png", "0123456789", None, "0123456789"),
}


@pytest.mark.parametrize("name", COMPETITIONS)
@given(data=st.data())
def test_names_of_every_grammar_have_a_group_a_key_and_a_mask(name: str, data: st.DataObject) -> None:
    competition = COMPETITIONS[name]
    image = data.draw(st.from_regex(competition.name_pattern, fullmatch=True))
    key = competition.key(image)
    assert competition.image_name(key) == image
    assert competition.group(image) and (competition.has_groups or competition.group(image) == key)
    assert (competition.view(image) is not None) == competition.has_views
    assert competition.mask_name(image).endswith(competition.mask_suffix)
    assert image.endswith(competition.image_suffix)


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_image_name_gives_its_group_and_its_view(name: str) -> None:
    competition, (image, group, view, key) = COMPETITIONS[name], EXAMPLES[name]
    assert (competition.group(image), competition.view(image), competition.key(image)) == (group, view, key)
    assert (competition.has_groups, competition.has_views) == (group != key, view is not None)
    assert competition.image_name(key) == image


@pytest.mark.parametrize("name", ["x.jpg", "0123456789ab_07.png", "0123456789ab_7.jpg", "0123456789AB_07.jpg", ""])
def test_a_name_outside_the_grammar_is_refused_by_name(name: str) -> None:
    with pytest.raises(UserError, match="not an image name"):
        COMPETITIONS["carvana"].group(name)


def test_an_unknown_competition_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=", ".join(COMPETITIONS)):
        find_competition("cats")


_BOTTOM = (
    "competition",
    "command_line",
    "path_names",
    "folder_listing",
    "atomic",
    "shortage",
    "remedies",
    "provenance",
)


@pytest.mark.parametrize("module", _BOTTOM)
def test_the_bottom_modules_import_only_the_standard_library_and_each_other(module: str) -> None:
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    foreign = {name for name in imported if name.split(".")[0] not in sys.stdlib_module_names}
    # workers are joblib's, which is there already where they begin
    assert foreign <= {*_BOTTOM, "joblib.externals.loky"} - {"competition", "provenance"}
