"""What tests of a deployment share."""

from tests.http.session_checkpoints import demo_checkpoint

__all__ = ["demo_checkpoint"]
