"""The colours of every picture."""

GREEN, AMBER, GREY, BLUE, RED = "#2a7f4f", "#c98a1b", "#8a8f98", "#2b6ca3", "#b3392f"
