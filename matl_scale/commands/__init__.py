"""What a user types: each module reads its command line, calls the library and prints the outcome. Nothing imports them."""
