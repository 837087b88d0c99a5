"""Tools that know nothing of feature flags."""
