"""The command that predicts: `__main__` has its flags, `writing` the forms of its answers,
`neighbours` which images are alike, `picture` shows that.
"""
