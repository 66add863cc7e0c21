"""What a user types: each module reads its command line, calls the library and prints the outcome. Nothing imports them.

A module that needs torch for its work alone imports what works only when the command line has been read: `--help` and mistakes
in it are then answered at once.
"""
