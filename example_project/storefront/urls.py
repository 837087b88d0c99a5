"""Routes of the shop and its log-in."""

from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from . import views

urlpatterns = [
    path("", views.home, name="home"),
    path("live/", views.live, name="live"),
    path("api/session/", views.session, name="session"),
    path("log-in/", LoginView.as_view(redirect_authenticated_user=True), name="login"),
    path("log-out/", LogoutView.as_view(), name="logout"),
]
