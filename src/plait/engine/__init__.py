"""The loop: schedule, run, commit."""
