"""Which source provides a flag's value."""
