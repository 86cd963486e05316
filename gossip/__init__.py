"""What nodes say to each other: the protocol machines of the mesh.

This package is a place kept free: a node of this version is a mesh of one.  What has to be there
from the first day for nodes to agree later (signed records, a merge that converges, content
addresses, home nodes in ids) is in `storage`.
"""
