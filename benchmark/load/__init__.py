"""`phi3v bench`: load on any chat endpoint, and what came of it.

An HTTP client and nothing else: it imports nothing of the server, the engine or the model.
"""
