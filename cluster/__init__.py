"""Ranks, launchers and machine checks; no torch at import."""
