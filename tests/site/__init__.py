"""A small project for tests that need processes of their own, and the means to start them."""
