"""The shard contract: the layout of tars, the manifest, label versions, and how samples are read back. No torch."""
