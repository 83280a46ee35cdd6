"""The command that lists runs: `finding` and `reading` see them, the others show them."""
