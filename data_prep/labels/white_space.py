"""White space around words: what is trimmed, everywhere alike."""

INVISIBLE = "\ufeff\u200b\u2060"  # byte order mark, zero-width space and word joiner: no white space for Python


def trim(text: str) -> str:
    """Removes white space of any kind from both ends, no-break spaces and invisible characters too."""
    while (shorter := text.strip().strip(INVISIBLE)) != text:
        text = shorter
    return text
