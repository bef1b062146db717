"""What was paid for: a row for each call, sums of the days, and a budget."""
