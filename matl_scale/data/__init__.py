"""Shard sets: their contract (`shards`), the order of reading (`plan`), the loader and augmentation."""
