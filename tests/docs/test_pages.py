"""Every command and snippet of README and docs runs as it is written, and whatever a page names exists."""

import importlib
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from helpers.pages import (
    NEVER_RUN,
    PAGES,
    ROOT,
    RUN_BY_NAME,
    SHOWN_ONLY,
    Block,
    call_script,
    commands_of,
    import_file,
    read_blocks,
    read_scripts,
    run_block,
)
from matl_scale.train.config import all_keys, all_sections

NUM_PHOTOS = 40
SMALL_NETWORK = "--model.name vgg11_bn --model.width 0.03125 --model.stem small --data.image_size 16 --data.workers 0"
SHORT_RUN = "--train.steps 20 --eval.every 20 --data.batch_size 8 --track.mlflow false"
RUNS = {  # the runs that pages speak of
    "mine": "",
    "A": "",
    "B": "--run.seed 1",
    "alone": "--data.tasks smiling",
}
EXECUTED = ("bash", "python")


def by_name(pages: list[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("page", pages, ids=lambda page: page.relative_to(ROOT).as_posix())


def is_executed(block: Block) -> bool:
    return block.kind in EXECUTED and block.mark not in NEVER_RUN


def has_quick_blocks(page: Path) -> bool:
    return any(is_executed(block) and block.mark != RUN_BY_NAME for block in read_blocks(page))


def has_heavy_blocks(page: Path) -> bool:
    return any(block.mark == RUN_BY_NAME for block in read_blocks(page))


@pytest.fixture(scope="session")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like that of somebody who follows the pages: photos, labels, a shard set, four short runs."""
    folder = tmp_path_factory.mktemp("workplace")
    write_photos(folder / "photos")
    write_labels(folder)
    shard = "--images photos --labels labels.csv --split-fractions train=0.6,val=0.2,test=0.2 --out data/mine"
    assert call_script(["matl-data", "shard", *shard.split()], folder) == 0
    for name, options in RUNS.items():
        line = f"--data.path data/mine --run.name {name} {SMALL_NETWORK} {SHORT_RUN} {options}"
        assert call_script(["matl-train", *line.split()], folder) == 0
    (folder / "launch").symlink_to(ROOT / "launch")
    return folder


def write_photos(folder: Path) -> None:
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(NUM_PHOTOS):
        pixels = generator.integers(0, 256, (24, 20, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:04d}.png")


def write_labels(folder: Path) -> None:
    hair = ("brown", "black", "")
    lines = [f"{i:04d}.png,{'yes' if i % 2 else 'no'},{hair[i % 3]}" for i in range(NUM_PHOTOS)]
    (folder / "labels.csv").write_text("\n".join(["image,smiling,hair", *lines]), encoding="utf-8")
    lines = [f"{i:04d}.png,{'yes' if i % 5 < 2 else 'no'}" for i in range(NUM_PHOTOS)]
    (folder / "next_month.csv").write_text("\n".join(["image,hat", *lines]), encoding="utf-8")


def copy_workplace(workplace: Path, folder: Path, blocks: list[Block]) -> None:
    """Copies the workplace, without what the blocks will make themselves."""
    shutil.copytree(workplace, folder, symlinks=True, dirs_exist_ok=True)
    text = "".join(block.code for block in blocks)
    for made in [
        *re.findall(r"--out (data/\w+)", text),
        *(f"runs/{name}" for name in re.findall(r"--run\.name (\w+)", text)),
    ]:
        shutil.rmtree(folder / made, ignore_errors=True)
    for file in folder.glob("runs/*/config.yaml"):  # a run keeps absolute paths
        file.write_text(file.read_text(encoding="utf-8").replace(str(workplace), str(folder)), encoding="utf-8")


def run_page(page: Path, workplace: Path, folder: Path, heavy: bool) -> None:
    blocks = [block for block in read_blocks(page) if is_executed(block) and (heavy or block.mark != RUN_BY_NAME)]
    copy_workplace(workplace, folder, blocks)
    names: dict[str, object] = {}
    for block in blocks:
        run_block(block, folder, names, in_process=not heavy)


@by_name([page for page in PAGES if has_quick_blocks(page)])
def test_a_page_runs_as_it_is_written(page: Path, workplace: Path, tmp_path: Path) -> None:
    run_page(page, workplace, tmp_path, heavy=False)


@pytest.mark.docs_heavy
@by_name([page for page in PAGES if has_heavy_blocks(page)])
def test_a_page_runs_with_its_heavy_blocks(page: Path, workplace: Path, tmp_path: Path) -> None:
    run_page(page, workplace, tmp_path, heavy=True)


@by_name(PAGES)
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    blocks = read_blocks(page)
    assert len(blocks) * 2 == page.read_text(encoding="utf-8").count("\n```")
    for block in blocks:
        assert block.kind in (*EXECUTED, *SHOWN_ONLY), f"line {block.line}: {block.kind!r}"
        assert block.mark in ("", RUN_BY_NAME, *NEVER_RUN, "file"), f"line {block.line}: {block.mark!r}"


@by_name(PAGES)
def test_every_command_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"\bmatl-[a-z]+\b", text)) - {"matl-scale"}
    assert named <= set(read_scripts())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    spoken = [line for block in read_blocks(page) if block.kind == "bash" for line in commands_of(block.code)]
    makes = [*re.findall(r"`make ([\w-]+)`", text), *(line.split()[1] for line in spoken if line.startswith("make "))]
    assert set(makes) <= targets


@by_name(PAGES)
def test_every_config_key_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    sections = "|".join(all_sections())
    keys = set(re.findall(rf"(?:`|--)((?:{sections})\.[a-z_]+)(?![\w/(.])", text))
    keys = {key for key in keys if not key.endswith((".json", ".yaml", ".py", ".safetensors"))}
    assert keys <= set(all_keys()), sorted(keys - set(all_keys()))


@by_name(PAGES)
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.is_file(), target
        assert not anchor or anchor in anchors_of(file), target


def anchors_of(page: Path) -> set[str]:
    """Returns the anchors of a page's headings, as GitHub and MyST form them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@by_name(PAGES)
def test_every_file_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    folders = "matl_scale|data_prep|launch|tests|docs"
    named = set(re.findall(rf"`((?:{folders})/[\w./-]*)`", text)) - {"launch/slurm/site.sh"}  # a user's own file
    assert not (missing := [name for name in sorted(named) if not (ROOT / name).exists()]), missing


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_tree_of_the_architecture_page_is_the_one_that_imports_are_held_to() -> None:
    module = import_file(ROOT / "tests" / "house" / "test_imports.py")
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([\w/]+)/` \| .+ \| (.+) \|$", page, re.MULTILINE)
    described = {room: set(re.findall(r"`([\w/]+)`", imports)) for room, imports in rows if room in module.ROOMS}
    assert set(described) == set(module.ROOMS)
    in_words = {room for room, imports in rows if "`" not in imports and imports != "nothing"}
    for room, allowed in module.ROOMS.items():
        if room not in in_words:
            assert {f"matl_scale/{name}" for name in described[room]} == set(allowed), room
    assert set(module.ENDS) <= {room for room, _ in rows}


def test_every_name_of_the_api_page_exists() -> None:
    page = (ROOT / "docs" / "reference" / "api.md").read_text(encoding="utf-8")
    names = re.findall(r"^\.\. auto\w+:: (.+)\.(\w+)$", page, re.MULTILINE)
    assert len(names) > 10
    for module, name in names:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"
