"""Routing over many replicas, simulated. See __main__.py."""
