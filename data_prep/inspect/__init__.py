"""Looking into a shard set: a summary, real samples, every byte."""
