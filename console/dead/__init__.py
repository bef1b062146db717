"""Dead letters, for an operator: look, send again, throw away, keep a copy. Run with `python -m console.dead`."""
