"""Where state lives: one SQLite file for the processes of one machine, or Redis for many machines."""
