"""The demo model: drawn robot scenes, the questions asked about them, and the training of a tiny LLaVA."""
