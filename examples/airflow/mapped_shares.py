"""A DAG that answers a corpus in shares, each wherever a slot is free, and checks the output then.

    airflow dags trigger translate_in_shares --conf '{"corpus": "/data/corpus", "out": "/data/out"}'

The output folder must be one that all workers see.
"""

from airflow.sdk import DAG, task

from engine.demo import BUNDLE
from engine.integrations.airflow import EngineRunOperator, engine_shares

with DAG("translate_in_shares", schedule=None, params={"corpus": "corpus", "out": "out"}):
    shares = EngineRunOperator.partial(
        task_id="translate",
        model=str(BUNDLE),
        inputs="{{ params.corpus }}",
        out="{{ params.out }}",
        text="text",
        keep="id",
        on_rejects="succeed",
        retries=3,
    ).expand(share=engine_shares(4))

    @task
    def check(out: str) -> None:
        """Fail unless every part is as it was recorded."""
        from engine.runner.verify import verify

        if problems := verify(out).problems:
            raise ValueError("; ".join(problems))

    shares >> check("{{ params.out }}")
