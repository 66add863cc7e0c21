"""Looks into a shard set: a summary, real samples, a check of every byte."""
