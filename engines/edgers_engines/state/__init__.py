"""What a device is doing, read from where the system says it: one file for each question."""
