"""The values that a run chooses where its config says `auto`; `docs/guides/defaults.md` has the rules and what they rest on."""
