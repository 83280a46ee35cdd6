"""A study, or a run, as one page of HTML, and as figures and tables for papers."""
