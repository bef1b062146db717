"""The exit codes of our processes, as sysexits.h has them: what a platform, or a script, can tell of an end."""

#: A command has found nothing to do, could not do all of it, or has found something that is wrong.
NOTHING = 1

#: EX_USAGE: it was typed in a way that cannot be meant.
USAGE = 64

#: EX_UNAVAILABLE: RabbitMQ or the store is away, or refuses us.
UNAVAILABLE = 69

#: EX_SOFTWARE: a fault of ours.
FAULT = 70

#: EX_CONFIG: bad settings.
SETTINGS = 78

#: Ctrl-C, as a shell says it: 128 and the number of the signal.
INTERRUPTED = 130
