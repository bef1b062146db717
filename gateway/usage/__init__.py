"""What the worker processes do, as they report it: who lives, what came out, what it cost, who waits."""
