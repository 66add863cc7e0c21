"""Checkpoints: complete, atomic, hashed; and the network that one holds. No process groups."""
