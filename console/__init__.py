"""What operators see and do. The worker does not import it."""
