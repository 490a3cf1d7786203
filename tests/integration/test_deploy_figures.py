"""What watches the service, held to what the service tells: alerts, dashboard and scaling."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import psycopg
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import update

from common.db import processes
from common.db.engine import Database
from common.db.keys import Scope
from common.db.tables import batches as batch_table
from common.db.tables import jobs as job_table
from common.db.tables import processes as process_table
from common.jobs.query import depth
from common.settings import Settings
from common.states import State
from tests import batches, jobs
from tests.api import Api
from tests.deployment import DEPLOY, manifests
from tests.servers.availability import unavailable

RULES = DEPLOY / "prometheus" / "alerts.yaml"
DASHBOARD = DEPLOY / "grafana" / "nightshift.json"


def selectors(expression: str) -> list[promql_parser.VectorSelector]:
    """Every selector of an expression. Raises ValueError for one that PromQL does not know."""
    found: list[promql_parser.VectorSelector] = []

    def look(node: Any) -> None:
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)
        for name in ("expr", "lhs", "rhs", "args", "vector_selector", "vs"):
            child = getattr(node, name, None)
            for part in child if isinstance(child, list) else [child]:
                if isinstance(part, promql_parser.Expr) or type(part).__module__ == type(node).__module__:
                    look(part)

    look(promql_parser.parse(expression))
    return found


def alerts() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def queries() -> Iterator[tuple[str, str]]:
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")


@pytest.fixture
def api(tmp_path: Path, sqlite_database: Database) -> Api:
    return Api(Settings(home=tmp_path), sqlite_database)


def told(api: Api) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """What /metrics tells: by name, the value of each set of labels."""
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(api.stranger().get("/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def busy(api: Api) -> None:
    """Something of everything: jobs that ended, and a request that was answered."""
    for state in (State.FAILED, State.SUCCEEDED, State.QUEUED):
        jobs.brought(api.database, api.me.key.id, state)
    api.me.get("/v1/jobs")


def test_queries_ask_for_what_is_told(api: Api) -> None:
    busy(api)
    known = {name: {label for labels in samples for label, _ in labels} for name, samples in told(api).items()}
    known["up"] = {"job"}
    seen = set()
    for where, query in queries():
        found = selectors(query)
        assert found, where
        for selector in found:
            assert selector.name in known, f"{where}: {selector.name}"
            for matcher in selector.matchers.matchers:
                assert matcher.name in known[selector.name], f"{where}: {selector.name}{{{matcher.name}}}"
            seen.add(selector.name)
        for label in re.findall(r"(?:by|on) \(([^)]*)\)", query):
            names = {name.strip() for name in label.split(",")}
            assert names <= {name for labels in known.values() for name in labels}, f"{where}: {names}"
    # What is told and never looked at would be told for nothing.
    assert {
        name for name in known if name.startswith("nightshift_") and not name.endswith(("_sum", "_created"))
    } <= seen


def test_a_query_that_is_none_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"."):
        selectors("sum by (lane (nightshift_jobs)")


def test_matched_values_are_told(api: Api) -> None:
    """An alert on a state that is spelt differently would be silent for ever."""
    busy(api)
    values: dict[str, set[str]] = {}
    for name, samples in told(api).items():
        if name.startswith("nightshift_") and "http" not in name:
            for labels in samples:
                for label, value in labels:
                    values.setdefault(label, set()).add(value)
    checked = 0
    for where, query in queries():
        for selector in selectors(query):
            for matcher in selector.matchers.matchers:
                if selector.name.startswith("nightshift_") and "http" not in selector.name:
                    assert set(matcher.value.split("|")) <= values[matcher.name], f"{where}: {matcher.value}"
                    checked += 1
    assert checked > 10


def test_figures_of_the_queue_are_of_all_processes_alike() -> None:
    """Two API processes tell the same: a sum over them would count twice."""
    for where, query in queries():
        for name in re.findall(r"nightshift_(?!http)\w+", query):
            assert re.search(
                rf"max(?: by \([^)]*\))? ?\(\s*{'nightshift_'}{name.removeprefix('nightshift_')}", query
            ), f"{where}: {query}"


def test_alerts_say_what_to_do() -> None:
    names = [rule["alert"] for rule in alerts()]
    assert len(set(names)) == len(names) >= 10
    for rule in alerts():
        assert rule["labels"]["severity"] in ("page", "ticket") and rule["for"]
        assert set(rule["annotations"]) == {"summary", "description"}


def test_alerts_ring_when_they_should() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        unavailable("promtool", "it is not installed", "apt-get install prometheus")
    folder = DEPLOY / "prometheus"
    done = subprocess.run(
        [promtool, "test", "rules", "alerts.test.yaml"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_scrape_configuration_reads_the_rules_and_shows_a_key() -> None:
    read = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yaml").read_text())
    assert all((DEPLOY / "prometheus" / name).exists() for name in read["rule_files"])
    (job,) = read["scrape_configs"]
    assert job["metrics_path"] == "/metrics" and "credentials" not in job["authorization"]
    used = {
        m.value for rule in alerts() for s in selectors(rule["expr"]) if s.name == "up" for m in s.matchers.matchers
    }
    assert used == {job["job_name"]}


def test_dashboard_has_no_panel_upon_another() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in panels():
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken and x < 24, f"{panel['title']} lies on {taken.get((x, y))}"
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_figures_follow_the_service(api: Api) -> None:
    empty = told(api)
    assert empty["nightshift_callbacks"] == {(("tried", "no"),): 0, (("tried", "yes"),): 0}
    assert set(empty["nightshift_processes"].values()) == {0}
    assert "nightshift_jobs_ended" not in empty
    busy(api)
    with api.database.write() as tx:
        processes.register(tx, "s", "scheduler")
        processes.register(tx, "w", "worker", lanes=["cpu", "gpu"])
        tx.execute(update(process_table).values(quarantined_until=tx.now(60.0)))
        tx.execute(update(job_table).where(job_table.c.state == "queued").values(losses=2))
    full = told(api)
    assert full["nightshift_jobs_ended"] == {
        (("lane", "cpu"), ("reason", "done"), ("state", "succeeded")): 1,
        (("lane", "cpu"), ("reason", "error"), ("state", "failed")): 1,
    }
    assert full["nightshift_lost_leases"] == {(("lane", "cpu"),): 2, (("lane", "gpu"),): 0}
    assert full["nightshift_processes"] == {
        (("role", "worker"),): 1,
        (("role", "scheduler"),): 1,
        (("role", "deliverer"),): 0,
    }
    assert full["nightshift_quarantined_workers"] == {(): 1}
    assert full["nightshift_callbacks"] == {(("tried", "no"),): 2, (("tried", "yes"),): 0}
    assert full["nightshift_late_callback_seconds"][()] >= 0
    assert full["nightshift_deliveries"] == {(("state", state),): 0 for state in ("pending", "retrying", "failed")}


def test_scaling_counts_the_jobs_that_workers_are_for(postgres_database: Database) -> None:
    """KEDA's queries, by a plain client as KEDA has it, on the real tables."""
    key = jobs.new_key(postgres_database)
    closed = batches.made(postgres_database, key, 5)
    assert batches.start(postgres_database) is not None
    for state in State:
        jobs.brought(postgres_database, key, state)
    later = jobs.submitted(postgres_database, key)
    batches.made(postgres_database, key, 2)
    with postgres_database.write() as tx:
        tx.execute(update(job_table).where(job_table.c.id == later.id).values(run_at=tx.now(3600.0)))
        tx.execute(update(batch_table).where(batch_table.c.id == closed.id).values(open_until=tx.now(-1.0)))
    with postgres_database.read() as tx:
        jobs_now = depth(tx)["cpu"]
    counted = {}
    url = postgres_database.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    with psycopg.connect(url) as connection:
        for _, manifest in manifests("scaling"):
            if manifest["kind"] == "ScaledObject":
                (trigger,) = manifest["spec"]["triggers"]
                row = connection.execute(trigger["metadata"]["query"]).fetchone()
                counted[manifest["metadata"]["name"]] = row and row[0]
    # Waiting, queued and running; neither what has ended, nor what is not yet due or waits for its window.
    assert counted == {"worker-cpu": jobs_now["waiting"] + jobs_now["queued"] + jobs_now["running"], "worker-gpu": 0}
    assert (jobs_now["running"], jobs_now["later"], counted["worker-cpu"]) == (2, 5, 6)


def test_prometheus_gets_in_with_an_admins_key(tmp_path: Path, sqlite_database: Database) -> None:
    open_to_all = Api(Settings(home=tmp_path, host="0.0.0.0"), sqlite_database)
    assert open_to_all.caller("prometheus", Scope.ADMIN).get("/metrics").status_code == 200
