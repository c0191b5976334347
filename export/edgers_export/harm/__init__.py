"""Short answers about pictures, labelled harmful or harmless; README.md says what they are."""
