"""Shard sets (`shards`), images (`images`), and the batches that training and evaluation read (`loading`)."""
