"""Dramatiq hooks around one delivery of `generate`, one noun a file; the order is in `actors/broker.py`."""
