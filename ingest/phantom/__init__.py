"""A made-up neuropil volume with tables and ground truth, in minnie65's format."""
