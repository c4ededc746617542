"""Foldline: train AlphaFold2 across nodes, ship what it trained as engines that fold proteins."""

__version__ = "0.1.0"

# The schema of everything a store manifest, checkpoint or bundle writes is versioned beside its owner:
# data_store/schema.py, trainer/checkpoint.py, export/bundle.py.
