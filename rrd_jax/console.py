"""What programs say to whoever started them, beside results and errors."""


def warn(text: str) -> None:
    """Prints a warning: what is doubtful, with its value, and what to do about it."""
    print(f"warning: {text}", flush=True)


def note(text: str) -> None:
    """Prints what is worth knowing and needs nothing done."""
    print(f"note: {text}", flush=True)
