"""Building blocks that objectives share. A part imports other parts, never an objective."""
