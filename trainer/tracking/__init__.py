"""MLflow beside a run: everything it gets is read from the run directory, by the training's own thread or by a later ``track sync``."""
