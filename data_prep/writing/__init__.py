"""Shards from a plan, and the manifest that completes the set."""
