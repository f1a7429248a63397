"""What `phi3v chat` and `phi3v batch` share: how a running server is reached and understood."""
