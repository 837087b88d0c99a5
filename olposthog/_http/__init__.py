"""The visitor's cookie, and whether page caches may store a response."""
