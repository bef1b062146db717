"""`script/bench scaling`: what ends first when keys, workers and requests grow by a hundred; for docs/scaling.md."""
