"""Batch jobs: one typed spec, the text of a job for each scheduler, submitting, following, cancelling."""
