"""One task's sub-network as a dense network of its own, in files that can be used without this package."""
