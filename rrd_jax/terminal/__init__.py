"""Console output, tables, error messages and exit codes of the commands."""
