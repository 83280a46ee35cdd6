"""Studies: grids of runs that answer questions, with shared teachers.

A study is a Python file with a function `get_study(argument)` that returns a `design.Study`.
"""
