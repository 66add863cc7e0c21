"""Pages that are made from the code hold all of it."""

from types import ModuleType

import pytest

from helpers.pages import ROOT, import_file
from matl_scale.train.config import all_keys


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return import_file(ROOT / "docs" / "generate.py")


def test_every_config_key_has_its_default_and_a_text(generate: ModuleType) -> None:
    lines = generate.config_page().splitlines()
    for key in all_keys():
        start = lines.index(f"`{key}`")
        assert lines[start + 1].startswith(": ")
        assert "default `" in lines[start + 1]
        assert lines[start + 3].strip()


def test_every_module_says_what_it_holds(generate: ModuleType) -> None:
    page = generate.modules_page()
    for package in generate.PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            if file.name != "__init__.py":
                assert f"| `{file.name}` | " in page
                assert generate.first_sentence(file), file
