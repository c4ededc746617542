"""Parameter names of other implementations, both ways."""
