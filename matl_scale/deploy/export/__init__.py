"""One task's sub-network as a dense model of its own, in files that need nothing of this package."""
