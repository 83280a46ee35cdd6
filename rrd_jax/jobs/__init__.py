"""Jobs: open the data, load or train the teacher, and train the runs."""
