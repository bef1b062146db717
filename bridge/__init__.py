"""From `gemini.requests` to the actor: validated, confirmed, then acked. Run with `python -m bridge`."""
