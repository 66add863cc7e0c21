"""Fixtures of the tests of training."""

import pytest

from helpers.embedded import Embedded, embed_set
from helpers.shard_sets import ShardSet


@pytest.fixture(scope="session")
def embedded(small_set: ShardSet, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    return embed_set(small_set.root, tmp_path_factory.mktemp("embedded"))
