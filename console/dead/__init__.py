"""Dead letters, for an operator: look, send again, throw away, keep a copy. The commands are in `console.failed`."""
