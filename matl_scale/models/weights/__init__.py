"""Weights that somebody else has trained, from a file: read, understood, and put into a backbone. Nothing in the file is run."""
