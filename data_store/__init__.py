"""Raw files -> Zarr store -> batches. Reads nothing of the rest of Foldline."""
