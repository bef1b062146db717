"""What scripts, tests and benchmarks share: servers, processes, and a worker with a stand-in for its provider.

No part of the product: it is in no wheel and no image. What runs before there is a `.venv` needs the standard library
only: `rabbitmq`, `debian`, and what they import.
"""
