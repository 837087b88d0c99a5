"""`{% vite "src/main.tsx" %}`: the tags that load an entry of the frontend, as Vite built it."""

import json
from pathlib import Path
from typing import Any

from django import template
from django.conf import settings
from django.templatetags.static import static
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

register = template.Library()

# What Vite's own index.html would have, for a page that Django renders.
DEVELOPMENT = """<script type="module">
import {{ injectIntoGlobalHook }} from "{base}@react-refresh";
injectIntoGlobalHook(window);
window.$RefreshReg$ = () => {{}};
window.$RefreshSig$ = () => (type) => type;
</script>
<script type="module" src="{base}@vite/client"></script>
<script type="module" src="{base}{entry}"></script>"""


def from_source() -> bool:
    """Whether Vite serves the sources, as `make dev` has it."""
    return bool(settings.FRONTEND_DEV)  # type: ignore[misc]  # ours; mypy knows the tests' settings


def manifest() -> Path:
    """Where Vite writes which files an entry needs."""
    return Path(settings.FRONTEND) / "manifest.json"  # type: ignore[misc]  # likewise


@register.simple_tag
def vite(entry: str) -> SafeString:
    if from_source():
        return format_html(DEVELOPMENT, base=f"{settings.STATIC_URL}live/", entry=entry)
    chunks: dict[str, Any] = json.loads(manifest().read_bytes())
    chunk = chunks[entry]
    imported = [chunks[name] for name in chunk.get("imports", [])]
    styles = [style for part in [*imported, chunk] for style in part.get("css", [])]
    return (
        format_html_join(
            "\n", '<link rel="stylesheet" href="{}">', ((_url(style),) for style in styles)
        )
        + format_html_join(
            "\n",
            '<link rel="modulepreload" href="{}">',
            ((_url(part["file"]),) for part in imported),
        )
        + format_html('<script type="module" src="{}"></script>', _url(chunk["file"]))
    )


def _url(file: str) -> str:
    return static(f"live/{file}")
