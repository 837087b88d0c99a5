"""Customers in the admin; their flags are there too, by `olposthog.contrib.admin`."""

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin

from .models import Customer

admin.site.register(Customer, UserAdmin)
