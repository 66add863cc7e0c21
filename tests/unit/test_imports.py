"""Imports point one way; a test holds the direction."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORBIDDEN = {
    "matl_scale/routing": (
        "accelerate",
        "torch.distributed",
        "matl_scale.train",
        "matl_scale.data",
        "matl_scale.tracking",
    ),
    "matl_scale/data": (
        "accelerate",
        "torch.distributed",
        "matl_scale.train",
        "matl_scale.routing",
        "matl_scale.models",
    ),
    "matl_scale/models.py": ("accelerate", "torch.distributed", "matl_scale.train", "matl_scale.data"),
    "matl_scale/export": ("accelerate", "torch.distributed", "matl_scale.train", "matl_scale.tracking"),
    "matl_scale/metrics.py": ("accelerate", "torch.distributed", "matl_scale.train"),
    "matl_scale/tracking": ("torch", "accelerate", "matl_scale.train", "matl_scale.routing", "matl_scale.models"),
    "matl_scale/report": ("torch", "accelerate", "matl_scale.train"),
    "matl_scale/train": ("mlflow", "launch"),
    "data_prep": ("torch", "matl_scale.train", "matl_scale.models", "matl_scale.routing", "matl_scale.tracking"),
}


SHARD_CONTRACT = (
    *(
        f"matl_scale.data.{name}"
        for name in ("association", "shards", "manifest", "tables", "versions", "store", "reader", "decode")
    ),
    *(f"matl_scale.{name}" for name in ("errors", "files", "tasks", "vision")),  # vision: to download a known data set
)


def imports_of(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("place", FORBIDDEN)
def test_direction(place: str) -> None:
    files = [ROOT / place] if place.endswith(".py") else sorted((ROOT / place).rglob("*.py"))
    assert files
    for file in files:
        for name in imports_of(file):
            assert not any(name == bad or name.startswith(f"{bad}.") for bad in FORBIDDEN[place]), f"{file}: {name}"


def test_data_prep_knows_the_shard_contract_only() -> None:
    for file in (ROOT / "data_prep").rglob("*.py"):
        ours = {name for name in imports_of(file) if name.startswith("matl_scale")}
        assert all(name.startswith(SHARD_CONTRACT) for name in ours), f"{file}: {ours}"


def test_torchvision_is_imported_through_the_shim_only() -> None:
    for folder in ("matl_scale", "data_prep", "launch", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            if file.name != "vision.py":
                assert not any(name.split(".")[0] == "torchvision" for name in imports_of(file)), file
