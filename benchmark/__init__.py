"""Measures the server and its parts."""
