"""What Airflow lists of this package as a provider; it is read whenever Airflow starts."""

from __future__ import annotations

from engine.version import __version__


def get_provider_info() -> dict[str, object]:
    """For the entry point `apache_airflow_provider`."""
    name = "Corpus engine"
    return {
        "package-name": "corpus-engine",
        "name": name,
        "description": "Offline batch inference over a corpus as a step of a DAG.",
        "versions": [__version__],
        "integrations": [{"integration-name": name, "tags": ["software"]}],
        "operators": [
            {"integration-name": name, "python-modules": ["engine.integrations.airflow"]},
        ],
    }
