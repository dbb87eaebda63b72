"""The data contract: the records and columns of a sample store and of a shard set."""
