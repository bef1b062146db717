"""Measurements against peers: see script/bench."""
