"""From a shard set to batches: order, reading, mixtures, exact positions to resume from."""
