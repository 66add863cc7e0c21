"""Shards from a plan, and the manifest that closes the set."""
