"""From a sample store, or tars of others, to a shard set; its verification and copies."""
