"""Requests: admission, limits, retries, transport."""
