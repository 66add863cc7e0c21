"""The values that a run chooses where its config says `auto`: the rules, what they go by, and what is said of them."""
