"""What may go wrong with a run, found before it starts. Every finding says what to do."""
