"""What all processes share through the site's cache."""
