"""Read every endpoint with the client of openapi-generator's `python`."""

import json
import sys

from flags_openapi_generator import ApiClient, Configuration, FeaturesApi, OfrepApi
from flags_openapi_generator.exceptions import NotFoundException
from flags_openapi_generator.models import FeatureFlagExposures, OfrepRequest

KEY = "a/b 50%"

client = ApiClient(Configuration(host=sys.argv[1]))
api, ofrep = FeaturesApi(client), OfrepApi(client)

everything = api.features_list()
one = api.features_retrieve(KEY)
exposure = api.features_exposure_create_with_http_info(KEY)
exposures = api.features_exposures_create_with_http_info(FeatureFlagExposures(keys=[KEY]))
bulk = ofrep.ofrep_flags(ofrep_request=OfrepRequest())
single = ofrep.ofrep_flag(KEY, ofrep_request=OfrepRequest())
try:
    api.features_retrieve("none")
except NotFoundException as error:
    missing = error.data.detail

json.dump(
    {
        "distinct_id": everything.distinct_id,
        "source": everything.source,
        "named": everything.features.checkout.actual_instance,
        "features": everything.features.to_dict(),
        "payloads": everything.payloads,
        "one": [one.key, one.enabled, one.variant, one.payload],
        "exposure": exposure.status_code,
        "exposures": exposures.status_code,
        "bulk": [
            [flag.key, flag.value.actual_instance, flag.reason, flag.variant] for flag in bulk.flags
        ],
        "single": [
            single.key,
            single.value.actual_instance,
            single.reason,
            single.metadata["source"].actual_instance,
        ],
        "missing": missing,
    },
    sys.stdout,
)
