"""`phi3v chat`: a conversation in a terminal, or one answer in a pipe."""
