"""AlphaFold2, readable beside its supplement; torch only."""
