"""Oracles: fixed maps from an answer to one of finitely many classes."""
