"""AF2 features, one per file (supplement 1.2)."""
