"""What a run tells of its corpus and its output: events of Airflow's assets, and OpenLineage.

Airflow and its OpenLineage provider are imported in the functions that need them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def tell_assets(outlets: Sequence[Any], events: Any, out: str, brief: Mapping[str, Any]) -> None:
    """Give the event of each asset among a task's outlets the run's rows, rejects and fingerprint.

    Args:
        outlets: Of the task; an alias gets the asset of `out`.
        events: `context["outlet_events"]`.
        out: The output, which has been rendered.
        brief: `Report.brief()`.
    """
    from airflow.sdk import Asset, AssetAlias
    from airflow.sdk.definitions.asset import AssetRef

    extra = {
        "rows": brief["rows_out"],
        "rejects": brief["rows_rejected"],
        "fingerprint": brief["fingerprint"],
    }
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            events[outlet].add(Asset(uri_of(out)), extra=extra)
        elif isinstance(outlet, (Asset, AssetRef)):
            events[outlet].extra.update(extra)


def facets(inputs: Sequence[str], out: str, brief: Mapping[str, Any] | None) -> Any:
    """The lineage of a run, whose report is None where it has failed; None where the OpenLineage
    provider is not installed."""
    try:
        from airflow.providers.openlineage.extractors import OperatorLineage
        from openlineage.client.event_v2 import InputDataset, OutputDataset
        from openlineage.client.facet_v2 import output_statistics_output_dataset
    except ImportError:
        return None
    facet = output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet
    statistics = brief and {
        "outputStatistics": facet(rowCount=brief["rows_out"], fileCount=brief["splits"])
    }
    return OperatorLineage(
        inputs=[InputDataset(*name_of(path)) for path in inputs],
        outputs=[OutputDataset(*name_of(out), outputFacets=statistics or {})],
    )


def uri_of(place: str) -> str:
    """A URL as it is, and a path as one."""
    return place if "://" in place else Path(place).absolute().as_uri()


def name_of(place: str) -> tuple[str, str]:
    """Namespace and name of a place, as OpenLineage has them: of s3://bucket/a/b the bucket's
    address and a/b, of a path "file" and the whole path."""
    parts = urlsplit(place)
    if "://" not in place or parts.scheme == "file":
        return "file", str(Path(parts.path if "://" in place else place).absolute())
    return f"{parts.scheme}://{parts.netloc}", parts.path.strip("/") or "/"
