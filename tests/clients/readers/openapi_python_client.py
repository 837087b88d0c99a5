"""Read every endpoint with the client of openapi-python-client."""

import json
import sys

from flags_openapi_python_client import Client
from flags_openapi_python_client.api.features import (
    features_exposure_create,
    features_exposures_create,
    features_list,
    features_retrieve,
)
from flags_openapi_python_client.api.ofrep import ofrep_flag, ofrep_flags
from flags_openapi_python_client.models import FeatureFlagExposures, OfrepRequest

KEY = "a/b 50%"

client = Client(base_url=sys.argv[1])

everything = features_list.sync(client=client)
one = features_retrieve.sync(KEY, client=client)
exposure = features_exposure_create.sync_detailed(KEY, client=client)
exposures = features_exposures_create.sync_detailed(
    client=client, body=FeatureFlagExposures(keys=[KEY])
)
bulk = ofrep_flags.sync(client=client, body=OfrepRequest())
single = ofrep_flag.sync(KEY, client=client, body=OfrepRequest())
missing = features_retrieve.sync("none", client=client)

json.dump(
    {
        "distinct_id": everything.distinct_id,
        "source": everything.source,
        "named": everything.features.checkout,
        "features": everything.features.to_dict(),
        "payloads": everything.payloads.to_dict(),
        "one": [one.key, one.enabled, one.variant, one.payload],
        "exposure": exposure.status_code,
        "exposures": exposures.status_code,
        "bulk": [[flag.key, flag.value, flag.reason, flag.variant] for flag in bulk.flags],
        "single": [single.key, single.value, single.reason, single.metadata["source"]],
        "missing": missing.detail,
    },
    sys.stdout,
)
