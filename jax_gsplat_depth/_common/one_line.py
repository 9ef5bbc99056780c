"""Writes text that may come from strangers' files on one line."""


def one_line(text: str) -> str:
    """Return the text with escapes for line breaks and for characters that a terminal obeys."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
