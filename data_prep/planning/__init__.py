"""The plan of a shard set, before a byte of it is written: names, labels, splits, shards."""
