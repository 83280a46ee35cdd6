"""Reports of a study or a run: an HTML page, and figures and tables for papers."""
