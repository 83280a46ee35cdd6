"""What programs print, and how they end: console lines, tables, errors and exit codes."""
