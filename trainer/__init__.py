"""The run: DeepSpeed, schedule, EMA, checkpoints, validation, tracking."""
