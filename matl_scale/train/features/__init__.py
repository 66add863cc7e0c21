"""Features of a set's images, computed once by a trunk that stays as it is, and runs that are trained on them."""
