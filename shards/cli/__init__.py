"""What command lines share, and what the shards commands print and draw."""
