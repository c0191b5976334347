"""Certificates for people: tables and plots."""
