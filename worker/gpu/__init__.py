"""What only a shard on a GPU needs. Imported where such a shard is loaded: it brings Triton."""
