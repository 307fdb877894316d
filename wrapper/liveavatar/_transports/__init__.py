"""Everything that knows httpx, httpcore or aiohttp: sends one request and reads its response."""
