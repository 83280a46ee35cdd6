"""Carries out a job: opens the data, obtains the teacher and trains the runs."""
