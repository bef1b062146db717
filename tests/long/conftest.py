"""Long suites drive the same stacks as the system tests."""

from tests.system.conftest import make_stack, stack_at

__all__ = ["make_stack", "stack_at"]
