"""What a machine with a GPU must show: right, leaking nothing, and how near its limits."""
