"""Functions, pictures and a model to try a node with.

`functions/` holds function sources, deployed as they stand; `data/` what they work on, each file
with its origin and licence in `PROVENANCE.md`.
"""
