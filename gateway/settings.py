"""The settings: one frozen object, read once at boot and passed down. Being completed."""
