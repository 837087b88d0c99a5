"""`GET /api/features/` under a steady load while PostHog goes through an outage.

`python -m benchmarks.outage` takes about three minutes, with `--quick` under one. gunicorn serves
olposthog's REST API and, in a run of its own, `mitol-django-olposthog` behind an equal view. Both
get the same visitors at the same moments, the same settings, an empty PostgreSQL database of the
same server, and a stand-in PostHog that goes through the same phases.
"""
