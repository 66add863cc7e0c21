"""The plan of a shard set, made before any of it is written: names, labels, splits, shards."""
