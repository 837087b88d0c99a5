"""Why PostHog gave no flags, in words fit for a log."""

from __future__ import annotations

from olposthog._utils.log_lines import printable

WRONG_ADDRESS = "Is POSTHOG_API_HOST PostHog's address?"


OVER_QUOTA = "See PostHog's billing: the project has used up the requests that its plan allows."


class PostHogError(Exception):
    """PostHog gave no flags. The text is a reason fit for a log: no key, no person.

    `counts` is False where the request was at fault and PostHog is well; `hint` says what may
    mend it.
    """

    def __init__(
        self, reason: str, *, transient: bool = False, counts: bool = True, hint: str = ""
    ) -> None:
        super().__init__(printable(reason))
        self.transient = transient
        self.counts = counts
        self.hint = printable(hint)
