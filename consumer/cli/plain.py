"""Text that others wrote, made safe to show on a terminal."""


def printable(text: str) -> str:
    """Return one line of text with what could move the cursor, forge a line or reprogram a terminal spelled out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _spelled(char) for char in text)


def _spelled(char: str) -> str:
    return "    " if char == "\t" else char.encode("unicode_escape").decode()
