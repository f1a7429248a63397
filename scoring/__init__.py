"""Pixels and token ids in, tokens out. Never imports FastAPI; torch only from engine.py inwards."""
