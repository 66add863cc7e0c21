"""The subcommands of `matl-data`, one file each."""
