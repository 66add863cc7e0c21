"""The run folder, the second contract on disk: what every file is called, holds and means. No torch."""
