"""From a bare sequence to alignments and template hits: queries, databases, one module per search program, resume."""
