"""The checks of the preflight: each looks on every rank (``look``) and is judged once, from what all ranks told (``judge``)."""
