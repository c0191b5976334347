"""Latency, throughput, memory and energy of a bundle on the device that is there."""
