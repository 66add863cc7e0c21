"""One optimizer step on W ranks: which task runs in which slot, forward and backward, the exchange, the update."""
