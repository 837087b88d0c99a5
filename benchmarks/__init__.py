"""olposthog measured side by side with its predecessor, `mitol-django-olposthog`.

`python -m benchmarks` takes a little over a minute. Both packages run in turns on this machine,
against the same stand-in PostHog over HTTP, with the same settings and with a `DatabaseCache` of
their own in a SQLite file. Each has a process of its own, because both are the Django app
`olposthog`.
"""
