"""Training and evaluation over ranks: which task where (`sampling`), one step (`step`, `sync`), the run (`loop`)."""
