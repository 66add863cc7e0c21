"""The answer of a sweep: which variant to use, and why. Statistics over seeds, plain values, and the paragraph."""
