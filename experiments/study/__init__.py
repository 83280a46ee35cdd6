"""Studies: grids of runs that answer questions, with the teachers that they share.

A study is a Python file with a function `get_study(argument)`, which returns a `design.Study`.
"""
