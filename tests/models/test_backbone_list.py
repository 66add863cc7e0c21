"""The list of backbones in the documentation is true: of a few models at every run, of all of them when it is asked for."""

import json
import re
from collections import defaultdict

import pytest
import torch

from helpers.equal_executions import check_equal_executions
from helpers.pages import ROOT
from helpers.timm_models import scatter
from helpers.torchvision_models import without_randomness
from matl_scale.models.backbone_list import examine, examine_all, list_names
from matl_scale.models.backbones import ModelConfig, build_backbone, build_backbone_outline
from matl_scale.models.network import count_bytes

LISTED = {entry["name"]: entry for entry in json.loads((ROOT / "docs/reference/backbones.json").read_text("utf-8"))}
FAMILY = re.compile(r"(?:timm/)?(?:tf_|legacy_|seres|seresnext|eca|ese_)?[a-z]+")


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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("source", ["torchvision", "timm"])
def test_the_smallest_of_each_family_runs_as_a_sub_network(source: str) -> None:
    families: dict[str, list[str]] = defaultdict(list)
    for entry in LISTED.values():
        if entry["subnetwork"] and entry["source"] == source:
            families[FAMILY.match(entry["name"])[0]].append(entry["name"])

    def config(name: str) -> ModelConfig:
        return ModelConfig(name=name, width=1.0, stem="standard")

    for names in families.values():
        smallest = min(names, key=lambda name: count_bytes(build_backbone_outline(config(name), seed=0)))
        backbone = scatter(without_randomness(build_backbone(config(smallest), seed=0))).double()
        check_equal_executions(backbone, image_size=96)
        del backbone
    assert len(families) >= 10
    assert torch.get_default_dtype() == torch.float32
