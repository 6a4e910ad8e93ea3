"""A DAG of one step, which answers a corpus; a DAG that is scheduled by its asset starts then.

    airflow dags trigger translate_corpus --conf '{"corpus": "/data/corpus", "out": "/data/out"}'

`BUNDLE` is the embedded model: put the folder of a bundle of your own in its place.
"""

from airflow.sdk import DAG, Asset

from engine.demo import BUNDLE
from engine.integrations.airflow import EngineRunOperator

with DAG("translate_corpus", schedule=None, params={"corpus": "corpus", "out": "out"}):
    EngineRunOperator(
        task_id="translate",
        model=str(BUNDLE),
        inputs="{{ params.corpus }}",
        out="{{ params.out }}",
        text="text",
        keep="id",
        on_rejects="succeed",
        retries=3,
        outlets=[Asset("translations")],
    )
