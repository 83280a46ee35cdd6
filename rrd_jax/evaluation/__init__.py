"""Figures that show, without labels, whether a student learns its teacher's embeddings.

`neighbours` compares nearest images, and classifies by them; `alignment` compares relations,
`spread` says whether embeddings have collapsed, `figures` is all of that by name, `shown` its
table. Functions of arrays on the host; only `neighbours` imports JAX.
"""
