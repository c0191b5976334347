"""What measures energy: one file for each source; energy.py has their order."""
