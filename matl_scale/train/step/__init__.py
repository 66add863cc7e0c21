"""One optimizer step on W ranks: which route runs in which slot, forward and backward, the exchange, the update."""
