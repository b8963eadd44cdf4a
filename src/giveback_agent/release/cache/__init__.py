"""Find the cache and cold memory that can be reclaimed, and reclaim it."""
