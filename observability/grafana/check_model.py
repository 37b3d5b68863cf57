"""Reads every dashboard into Grafana's own typed model and writes it out again. A key that is lost on the way is one that
Grafana does not know. Not part of `./surge test`, because it needs a Python package that nothing else needs:

    python3 -m venv /tmp/grafana && /tmp/grafana/bin/pip install 'grafana-foundation-sdk==1769699379!11.6.0'
    /tmp/grafana/bin/python observability/grafana/check_model.py
"""

import json
import sys
from pathlib import Path

from grafana_foundation_sdk.cog import plugins
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

# The model leaves these keys out, because they belong to the Prometheus plugin.
OF_PLUGINS = {"definition", "titleFormat"}


def lost(before, after, path):
    """Yields the path of each value in `before` that is not in `after`. Ignores empty values."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                yield from lost(value, after[key], f"{path}.{key}")
            elif value not in (None, [], {}, "") and key not in OF_PLUGINS:
                yield f"{path}.{key}"
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


plugins.register_default_plugins()
unknown = []
for file in sorted((Path(__file__).parent / "dashboards").glob("*.json")):
    dashboard = json.loads(file.read_text())
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard)))
    unknown += lost(dashboard, again, file.name)
sys.exit("\n".join(unknown) or None)
