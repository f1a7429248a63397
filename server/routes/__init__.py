"""The HTTP routes, thin: what they do lies beside them."""
