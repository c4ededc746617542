"""`foldline chaos`: a small real training under faults, held against the same training without."""
