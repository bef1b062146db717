"""Writes the contract of the messages, and its tables, from the models: see script/contract."""
