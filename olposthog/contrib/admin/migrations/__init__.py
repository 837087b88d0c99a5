"""Django's place for migrations."""
