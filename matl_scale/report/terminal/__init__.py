"""Reports in a terminal: a few lines and short tables; everything else is in the page and in the JSON file."""
