"""What is read when (`plan`), and batches of it (`loader`, `stream`)."""
