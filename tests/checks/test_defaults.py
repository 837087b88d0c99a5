"""What holds where nothing else is said."""

import pytest

from olposthog import conf
from olposthog.checks import ids
from tests.checks.project import warning


@pytest.mark.parametrize("hostname", [None, ""], ids=["none", "empty"])
def test_no_hostname(production, hostname):
    """Without HOSTNAME each machine is somebody else."""
    production.HOSTNAME = hostname

    assert warning().id == ids.NO_HOSTNAME
    assert "HOSTNAME" in warning().msg
    assert conf.current().hostname in warning().msg


@pytest.mark.parametrize("environment", [None, "", " "], ids=["none", "empty", "blank"])
def test_no_environment(production, environment):
    """Without ENVIRONMENT flags cannot tell deployments apart."""
    production.ENVIRONMENT = environment

    assert warning().id == ids.NO_ENVIRONMENT
    assert "ENVIRONMENT" in warning().msg


@pytest.mark.parametrize("text", ["true", "False", " FALSE ", "0", "1", ""])
def test_text_for_a_switch(production, text):
    """Text in FEATURES that reads like a switch is a variant, and so it is on."""
    production.FEATURES = {"new-nav": text, "checkout": "test"}

    assert warning().id == ids.TEXT_FOR_SWITCH
    assert "new-nav" in warning().msg
    assert "True or False" in str(warning().hint)
