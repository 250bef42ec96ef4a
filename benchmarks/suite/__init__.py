"""What asv runs over the commits of softcore: `make bench-history`.

Names and versions stay, so that a history does not begin anew. A commit that lacks an op has no number for it.
"""
