"""The list of backbones in the documentation is true: of a few models at every run, of all of them when it is asked for."""

import json
import re
from collections.abc import Iterator

import pytest

from helpers.equal_executions import check_equal_executions
from helpers.pages import ROOT
from helpers.timm_models import scatter
from helpers.torchvision_models import without_randomness
from matl_scale.models.backbone_list import examine, examine_all, list_names
from matl_scale.models.backbones import build_backbone, build_backbone_outline
from matl_scale.models.config import ModelConfig
from matl_scale.models.from_timm import PREFIX
from matl_scale.models.from_timm.library import load_timm
from matl_scale.models.network import count_bytes

LISTED = {entry["name"]: entry for entry in json.loads((ROOT / "docs/reference/backbones.json").read_text("utf-8"))}


def test_enough_models_run_as_sub_networks() -> None:
    cut = [entry["source"] for entry in LISTED.values() if entry["subnetwork"]]
    assert cut.count("torchvision") >= 60
    assert cut.count("timm") >= 300
    assert all(entry["reason"] for entry in LISTED.values() if not entry["subnetwork"])


@pytest.mark.parametrize("name", ["squeezenet1_1", "shufflenet_v2_x0_5", "timm/test_resnet", "timm/test_nfnet"])
def test_the_list_says_what_is_found(name: str) -> None:
    assert vars(examine(name)) == LISTED[name]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_whole_list_says_what_is_found() -> None:
    assert [vars(found) for found in examine_all(list_names())] == list(LISTED.values())


def families() -> Iterator[list[str]]:
    """Yields the models that run as sub-networks, family by family: of timm, those of one of its modules."""
    cut = [name for name, entry in LISTED.items() if entry["subnetwork"]]
    timm = load_timm("This test")
    for module in timm.list_modules():
        yield [PREFIX + name for name in timm.list_models(module=module) if PREFIX + name in cut]
    for family in dict.fromkeys(re.findall(r"^[a-z]+", "\n".join(cut), re.MULTILINE)):
        yield [name for name in cut if re.match(rf"{family}(?![a-z/])", name)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_smallest_of_each_family_runs_as_a_sub_network() -> None:
    for names in filter(None, families()):
        configs = [ModelConfig(name=name, width=1.0, stem="standard") for name in names]
        smallest = min(configs, key=lambda config: count_bytes(build_backbone_outline(config, seed=0)))
        backbone = scatter(without_randomness(build_backbone(smallest, seed=0))).double()
        try:
            check_equal_executions(backbone, image_size=96)
        except AssertionError as error:
            raise AssertionError(smallest.name) from error
