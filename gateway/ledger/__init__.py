"""What was asked, whether a call for it runs, and what was answered."""
