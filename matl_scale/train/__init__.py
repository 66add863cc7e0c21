"""Training and evaluation over ranks: open, build, resume, loop, close (`run`); one step (`step`), what carries a run on
(`resume`), what ends it early (`health`)."""
