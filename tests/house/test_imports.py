"""Imports point one way: which room may import which, and which libraries stay out of a room."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The modules directly below matl_scale/, which every room may import. They import nothing of ours but each other.
GROUND = (
    "automatic",
    "tasks",
    "routes",
    "errors",
    "seeds",
    "device",
    "progress",
    "cli",
    "torchvision_operators",
    "vision",
    "extras",
    "display",
    "terminal_table",
    "text",
    "launcher",
)
FRONT_DOOR = ROOT / "matl_scale/__init__.py"  # imports any room lazily; no room imports it
# A room may import itself, the ground, and the rooms listed behind it. A room is a folder; the longest match counts.
ROOMS: dict[str, tuple[str, ...]] = {
    "matl_scale/storage": (),
    "matl_scale/data/shards": ("matl_scale/storage",),
    "matl_scale/data/images": ("matl_scale/storage", "matl_scale/data/shards"),
    "matl_scale/data/loading": ("matl_scale/data/shards", "matl_scale/data/images"),
    "matl_scale/routing": (),
    "matl_scale/models": ("matl_scale/routing", "matl_scale/storage"),
    "matl_scale/metrics": (),
    "matl_scale/decisions": ("matl_scale/metrics", "matl_scale/storage"),
    "matl_scale/runs": (
        "matl_scale/storage",
        "matl_scale/data/shards",
        "matl_scale/metrics",
        "matl_scale/decisions",
    ),
    "matl_scale/runs/checkpoints": (
        "matl_scale/runs",
        "matl_scale/storage",
        "matl_scale/data/images",
        "matl_scale/metrics",
        "matl_scale/decisions",
        "matl_scale/models",
        "matl_scale/routing",
    ),
    "matl_scale/tracking": ("matl_scale/runs", "matl_scale/storage", "matl_scale/metrics"),
    "matl_scale/train": (
        "matl_scale/storage",
        "matl_scale/data/shards",
        "matl_scale/data/images",
        "matl_scale/data/loading",
        "matl_scale/routing",
        "matl_scale/models",
        "matl_scale/metrics",
        "matl_scale/decisions",
        "matl_scale/runs",
        "matl_scale/runs/checkpoints",
        "matl_scale/tracking",
    ),
    "matl_scale/sweep": (
        "matl_scale/storage",
        "matl_scale/data/shards",
        "matl_scale/data/loading",
        "matl_scale/models",
        "matl_scale/metrics",
        "matl_scale/runs",
        "matl_scale/tracking",
        "matl_scale/train",
    ),
    "matl_scale/deploy": (
        "matl_scale/storage",
        "matl_scale/data/shards",
        "matl_scale/data/images",
        "matl_scale/data/loading",
        "matl_scale/routing",
        "matl_scale/models",
        "matl_scale/metrics",
        "matl_scale/decisions",
        "matl_scale/runs",
        "matl_scale/runs/checkpoints",
    ),
    "matl_scale/report": (
        "matl_scale/storage",
        "matl_scale/data/shards",
        "matl_scale/data/images",
        "matl_scale/metrics",
        "matl_scale/decisions",
        "matl_scale/runs",
    ),
    "data_prep": ("matl_scale/storage", "matl_scale/data/shards", "matl_scale/data/images"),
}
# They tie rooms together and may import any of them. Only launch/ and they themselves import them.
ENDS = ("matl_scale/doctor", "matl_scale/benchmark", "matl_scale/commands", "launch")
KEPT_OUT = {
    "matl_scale/storage": ("torch", "numpy", "accelerate", "mlflow"),
    "matl_scale/data/shards": ("torch", "accelerate", "mlflow"),
    "matl_scale/data/images": ("torch", "accelerate", "mlflow"),
    "matl_scale/data/loading": ("accelerate", "torch.distributed", "mlflow"),
    "matl_scale/routing": ("accelerate", "torch.distributed", "mlflow"),
    "matl_scale/models": ("accelerate", "torch.distributed", "mlflow"),
    "matl_scale/metrics": ("accelerate", "torch.distributed", "mlflow"),
    "matl_scale/decisions": ("torch", "accelerate", "mlflow"),
    "matl_scale/runs": ("torch", "accelerate", "mlflow"),
    "matl_scale/runs/checkpoints": ("accelerate", "torch.distributed", "mlflow"),
    "matl_scale/tracking": ("torch", "accelerate"),
    "matl_scale/train": ("mlflow",),
    "matl_scale/sweep": ("mlflow",),
    "matl_scale/deploy": ("accelerate", "torch.distributed"),
    "matl_scale/report": ("torch", "accelerate", "mlflow"),
    "data_prep": ("torch", "accelerate", "mlflow"),
}


def room_of(path: Path) -> str:
    """Returns the room of a file, `ground`, `front door` for the public names, or an end."""
    if path == FRONT_DOOR:
        return "front door"
    name = path.relative_to(ROOT).as_posix()
    matches = [room for room in (*ROOMS, *ENDS) if name.startswith(f"{room}/")]
    if matches:
        return max(matches, key=len)
    assert path.parent == ROOT / "matl_scale" or path.name == "__init__.py", f"{name} lies in no room"
    return "ground"


@cache
def imports_of(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(names)


def our_files_of(path: Path) -> Iterator[Path]:
    """Yields the files of ours that a file imports."""
    for name in imports_of(path):
        base = ROOT / name.replace(".", "/")
        for file in (base.with_suffix(".py"), base / "__init__.py"):
            if file.is_file():
                yield file


def source_files() -> list[Path]:
    return sorted(file for folder in ("matl_scale", "data_prep", "launch") for file in (ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("room", [*ROOMS, "ground"])
def test_arrows_point_one_way(room: str) -> None:
    files = [file for file in source_files() if room_of(file) == room]
    assert files
    allowed = {room, "ground", *ROOMS.get(room, ())}
    wrong = [
        f"{file.relative_to(ROOT)} imports {target.relative_to(ROOT)}"
        for file in files
        for target in our_files_of(file)
        if room_of(target) not in allowed
    ]
    assert not wrong, "\n".join(wrong)


def test_the_ground_is_what_it_is_said_to_be() -> None:
    assert {path.stem for path in (ROOT / "matl_scale").glob("*.py")} - {FRONT_DOOR.stem} == set(GROUND)


def test_there_is_no_circle() -> None:
    def visit(room: str, path: tuple[str, ...]) -> None:
        assert room not in path, " → ".join((*path, room))
        for target in ROOMS[room]:
            visit(target, (*path, room))

    for room in ROOMS:
        visit(room, ())


@pytest.mark.parametrize("room", KEPT_OUT)
def test_libraries_stay_out(room: str) -> None:
    for file in source_files():
        if room_of(file) == room:
            for name in imports_of(file):
                assert not name.startswith(tuple(f"{bad}." for bad in KEPT_OUT[room])), f"{file}: {name}"
                assert name not in KEPT_OUT[room], f"{file}: {name}"


@pytest.mark.parametrize(
    ("library", "through"),
    [("torchvision", "matl_scale/vision.py"), ("timm", "matl_scale/models/from_timm/library.py")],
)
def test_a_library_is_imported_in_one_place_only(library: str, through: str) -> None:
    for folder in ("matl_scale", "data_prep", "launch", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            if file != ROOT / through:
                assert not any(name.split(".")[0] == library for name in imports_of(file)), file
