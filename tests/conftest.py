"""Shared fixtures. Tests run on the CPU, seeded, with warnings as errors; torch uses one thread."""

import os

import pytest
import torch

from helpers.shard_sets import ShardSet, write_small_set


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Labels of sets whose folders cannot hold a cache are cached here, not in the user's home."""
    os.environ["MATL_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def small_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """90 random images of 16 pixels, six tasks with missing labels, several uneven shards. Read only."""
    return write_small_set(tmp_path_factory.mktemp("small") / "set")


@pytest.fixture(scope="session")
def sparse_set(tmp_path_factory: pytest.TempPathFactory) -> ShardSet:
    """The same images with 60 % of the labels missing. Read only."""
    return write_small_set(tmp_path_factory.mktemp("sparse") / "set", missing=0.6)
