"""Whether a difference between two networks on the same samples is beyond chance."""
