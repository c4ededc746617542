"""Template hits -> aligned template structures in the query's numbering (AF2 supplement 1.2.3)."""
