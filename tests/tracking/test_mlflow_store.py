"""The file of a SQLite store is the one that SQLAlchemy, and so MLflow, opens."""

from pathlib import Path

import pytest
from sqlalchemy import make_url

from matl_scale.tracking.mlflow_store import PLAIN_SQLITE, sqlite_file, sqlite_uri


@pytest.mark.parametrize(
    "uri",
    [
        *("sqlite:////data/runs/mlflow.db", "sqlite:///mlflow.db", "sqlite:///../a-b_c/9.db", "sqlite:////a//b/./c.db"),
        *("sqlite:////a%20b/m.db", "sqlite:////a/m.db?timeout=9", "sqlite+pysqlite:////a/m.db", "sqlite://"),
    ],
)
def test_the_file_of_an_address(uri: str) -> None:
    assert sqlite_file(uri) == Path(make_url(uri).database or "")


@pytest.mark.parametrize("name", ["plain", "a b", "a?b", "a%20b", "ä", "a+b", "a:b@c", "a#b"])
def test_the_address_of_a_file(name: str, tmp_path: Path) -> None:
    path = tmp_path / name / "mlflow.db"
    uri = sqlite_uri(path)
    assert Path(make_url(uri).database or "") == path.resolve()
    assert (PLAIN_SQLITE.fullmatch(uri) is not None) == (name == "plain")
