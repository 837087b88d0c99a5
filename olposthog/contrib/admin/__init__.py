"""The admin's page of a person's flags: put `olposthog.contrib.admin` into INSTALLED_APPS."""
