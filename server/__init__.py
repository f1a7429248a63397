"""HTTP in, HTTP out. Knows FastAPI and asyncio; never imports torch."""
