"""One loss per file (supplement 1.9)."""
