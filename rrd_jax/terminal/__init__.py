"""Output and exit of programs: console lines, tables, errors and exit codes."""
