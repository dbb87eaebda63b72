"""Parts that all command lines share, and the output of the shards commands."""
