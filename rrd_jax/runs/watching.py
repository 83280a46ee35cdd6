"""A screen that is drawn anew every few seconds."""

import contextlib
import signal
import sys
import time
from collections.abc import Callable


def watch(draw: Callable[[int, int], str], seconds: float) -> None:
    """Shows what `draw` returns for so many columns and rows, until Ctrl-C.

    The screen that was there before comes back then.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    def leave(*_) -> None:
        sys.exit(128 + signal.SIGTERM)  # through Live, which gives the screen back

    before = signal.signal(signal.SIGTERM, leave)
    console = Console()
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, screen=True, auto_refresh=False) as live,
    ):
        while True:
            text = draw(console.width, console.height)
            live.update(Text(text, no_wrap=True, overflow="crop"), refresh=True)
            time.sleep(seconds)
    signal.signal(signal.SIGTERM, before)
