"""WebDataset shards of synapse images: the data contract, packing, verifying and streaming."""
