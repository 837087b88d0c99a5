"""Commands of `manage.py`, for operators: each looks at the site's flags, and none changes them."""
