"""One feature step per file (AF2 supplement 1.2), numpy only."""
