import pytest

# The assertions in these explain themselves as a test's own do.
for _module in ("error_bodies", "event_streams", "running_server"):
    pytest.register_assert_rewrite(f"{__name__}.{_module}")
