"""Tables of any kind through one typed path: what a column must be decides how it is read."""
