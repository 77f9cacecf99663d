"""The routes of OpenAI's interface, under /v1."""
