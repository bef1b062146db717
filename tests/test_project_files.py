"""The files around the code: what people start, deploy and read fits the code and each other."""

import json
import os
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from console.metrics.__main__ import PORT as METRICS_PORT
from console.run import WORKER
from dev.launcher import ROOT, procfile
from gateway.settings import Settings
from tests.chaos.suites import SUITES

#: Heroku and `docker compose` (as configured here) kill what has not ended by then.
GRACE_MS = 30_000


def text(name: str) -> str:
    return (ROOT / name).read_text()


def service(name: str) -> str:
    """The lines of one service of the compose file."""
    found = re.search(rf"^  {name}:(?: &\w+)?\n((?:    .*\n|\n)*)", text("docker-compose.yml"), re.MULTILINE)
    assert found, f"no service {name}"
    return found[1]


def test_the_procfile_starts_the_worker_and_nothing_else():
    """Each replaces its shell: the process that a platform signals and waits for is ours."""
    assert set(procfile()) == {"worker"}
    assert procfile()["worker"].startswith("exec dramatiq-gevent actors ")


def test_nothing_of_one_machine_is_in_the_repository():
    """A link that leads to one developer's folder (`.venv` was one) breaks every other checkout."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run(["git", "ls-files", "--stage"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert listed
    assert [line for line in listed.splitlines() if line.startswith("120000")] == []


@pytest.mark.parametrize("name", ["Procfile", "Dockerfile"])
def test_a_worker_stops_before_the_platform_kills_it(name: str):
    """With at least two seconds left for closing connections."""
    (timeout_ms,) = re.findall(r"--worker-shutdown-timeout (\d+)", text(name))
    assert int(timeout_ms) <= GRACE_MS - 2000


def test_processes_and_threads_come_from_the_environment_with_visible_defaults():
    """The shell expands them, as Heroku and honcho start commands through one."""
    command = procfile()["worker"].removeprefix("exec ")
    for environment, expected in (
        ({}, "2 --threads 50"),
        ({"WORKER_PROCESSES": "5", "WORKER_THREADS": "3"}, "5 --threads 3"),
    ):
        shown = subprocess.run(
            ["/bin/sh", "-c", f"echo {command}"], env=environment, capture_output=True, text=True, check=True
        )
        assert f"--processes {expected} " in shown.stdout


def test_the_page_is_started_by_the_line_that_the_docs_have():
    """Not by the Procfile: a platform would start `web` at the first deploy, of whoever wants it or not."""
    (command,) = re.findall(r"^```Procfile\nweb: (.*)\n```$", text("docs/operating.md"), re.MULTILINE)
    environment = {"PATH": f"{ROOT / '.venv' / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "PORT": "0"}
    ran = subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, "does not listen on 0.0.0.0 without a password" in ran.stderr) == (78, True)


def test_the_image_and_the_procfile_start_the_same_worker():
    """One command, wherever it runs."""
    (command,) = re.findall(r'^CMD \["sh", "-c", "(exec dramatiq-gevent .*)"\]$', text("Dockerfile"), re.MULTILINE)
    assert command == procfile()["worker"]


def test_gemini_run_starts_the_same_worker():
    """Where there is no checkout."""
    assert procfile()["worker"] == WORKER


def test_the_image_does_not_run_as_root_and_holds_no_env_file():
    """The user is set in the stage that both images are made from; the build sees only what is listed."""
    base = text("Dockerfile").split(" AS base\n")[1].split("\nFROM ")[0]
    assert "\nUSER worker\n" in base
    ignored = text(".dockerignore").splitlines()
    assert "*" in ignored
    assert not [line for line in ignored if line.startswith("!.")]


def test_the_image_has_every_package():
    """A package that is not copied would be missing at the first import of it. What is for developers stays out."""
    wanted = {name.partition(".")[0] for name in pyproject()["tool"]["setuptools"]["packages"]}
    assert set(re.findall(r"^COPY (\w+) \1$", text("Dockerfile"), re.MULTILINE)) == wanted
    assert wanted <= {line.removeprefix("!") for line in text(".dockerignore").splitlines()}
    assert not wanted & {"dev", "tests", "benchmarks"}


def test_an_installed_worker_has_every_file():
    """A file that is no Python is left out of a wheel unless it is declared."""
    tools = pyproject()["tool"]["setuptools"]
    for package in tools["packages"]:
        folder = ROOT / package.replace(".", "/")
        declared = {path for pattern in tools["package-data"].get(package, []) for path in folder.glob(pattern)}
        assert {path for path in folder.iterdir() if path.is_file() and path.suffix != ".py"} == declared


def test_compose_has_the_services_and_the_worker_can_be_scaled():
    """A fixed name or a published port would stop `--scale gemini-client=3`."""
    for name in ("rabbitmq", "redis"):
        assert "healthcheck:" in service(name)
    assert 'profiles: ["fake"]' in service("fake")
    worker = service("gemini-client")
    assert "container_name:" not in worker
    assert "ports:" not in worker
    assert f"stop_grace_period: {GRACE_MS // 1000}s" in worker


def test_a_container_is_probed_without_asking_its_servers():
    """By the command that looks at this container only: image, compose, Kubernetes."""
    probe = ["python", "-m", "console", "health"]
    (command,) = re.findall(r"^HEALTHCHECK .* CMD (\[.*\])$", text("Dockerfile"), re.MULTILINE)
    assert json.loads(command) == probe
    services = yaml.safe_load(text("docker-compose.yml"))["services"]
    assert services["gemini-client"]["healthcheck"]["test"] == ["CMD", "gemini", "health"]
    worker, metrics = yaml.safe_load_all(text("deploy/kubernetes.yaml"))
    (container,) = worker["spec"]["template"]["spec"]["containers"]
    assert [container[f"{kind}Probe"]["exec"]["command"] for kind in ("startup", "liveness")] == [probe, probe]
    assert worker["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] * 1000 == GRACE_MS
    assert metrics["spec"]["replicas"] == 1


def test_the_image_says_what_it_is():
    """Labels of the Open Container Initiative; the build fills in version and revision."""
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]*)"', text("Dockerfile")))
    assert labels["title"] == pyproject()["project"]["name"]
    assert labels["description"] == pyproject()["project"]["description"]
    assert labels["licenses"] == pyproject()["project"]["license"]
    assert (labels["version"], labels["revision"]) == ("${VERSION}", "${REVISION}")


def test_monitoring_is_a_profile_of_its_own():
    """Its metrics server is what Prometheus scrapes, and files that it mounts exist."""
    services = yaml.safe_load(text("docker-compose.yml"))["services"]
    names = {name for name, one in services.items() if one.get("profiles") == ["monitoring"]}
    assert names == {"metrics", "prometheus", "grafana"}
    ((scraped,),) = [one["targets"] for one in scrape_config()["static_configs"]]
    host, _, port = scraped.partition(":")
    assert host in names
    assert f"127.0.0.1:{port}/healthz" in str(services[host]["healthcheck"]["test"])
    assert int(port) == METRICS_PORT
    for name in names:
        for volume in services[name].get("volumes", []):
            source = volume.partition(":")[0]
            assert not source.startswith(".") or (ROOT / source).exists(), source


def test_every_published_port_is_of_this_machine_only():
    """A RabbitMQ with a default password is not for the neighbours."""
    services = yaml.safe_load(text("docker-compose.yml"))["services"]
    ports = [port for one in services.values() for port in one.get("ports", [])]
    assert len(ports) >= 5
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def scrape_config() -> dict[str, Any]:
    (found,) = yaml.safe_load(text("deploy/prometheus/prometheus.yml"))["scrape_configs"]
    return dict(found)


def test_heroku_asks_for_a_plan_that_keeps_dead_letters():
    """Shared plans (lemur, tiger) delete queues that nobody reads; the certificate of its Redis is dealt with."""
    app = json.loads(text("app.json"))
    (plan,) = [addon["plan"] for addon in app["addons"] if addon["plan"].startswith("cloudamqp")]
    assert plan.partition(":")[2] not in {"", "lemur", "tiger"}
    assert app["env"]["REDIS_TLS_VERIFY"]["value"] == "false"


def test_heroku_gets_the_process_types_and_settings_that_exist():
    """app.json names no process that the Procfile does not have."""
    app = json.loads(text("app.json"))
    assert set(app["formation"]) == set(procfile())
    assert {addon["plan"].partition(":")[0] for addon in app["addons"]} == {"cloudamqp", "heroku-redis", "sentry"}
    assert "OPENROUTER_API_KEYS" in app["env"]


def test_there_is_one_lock_file():
    """Heroku refuses a build with two."""
    others = ("requirements.txt", "Pipfile.lock", "poetry.lock", "pdm.lock", "pylock.toml")
    assert (ROOT / "uv.lock").exists()
    assert not [name for name in others if (ROOT / name).exists()]


def test_the_lock_file_is_open_to_everybody():
    """Every package comes from the public index: no private host, no local path but the project itself."""
    packages = tomllib.loads(text("uv.lock"))["package"]
    assert {json.dumps(package["source"]) for package in packages} == {
        '{"registry": "https://pypi.org/simple"}',
        '{"editable": "."}',
    }
    assert set(re.findall(r'url = "(https?://[^/]+)/', text("uv.lock"))) == {"https://files.pythonhosted.org"}


def test_the_lock_file_has_every_dependency():
    """A dependency that was added without `uv lock` would be missing after script/setup."""
    project = pyproject()["project"]
    declared = project["dependencies"] + [one for extra in project["optional-dependencies"].values() for one in extra]
    names = {re.split(r"[\[<>=~! ]", one)[0].lower() for one in declared}
    assert names <= {package["name"] for package in tomllib.loads(text("uv.lock"))["package"]}


def test_the_python_version_is_one_that_the_project_supports():
    """It is read by Heroku, uv and pyenv."""
    oldest = pyproject()["project"]["requires-python"].removeprefix(">=")
    as_numbers = [tuple(map(int, version.split("."))) for version in (text(".python-version").strip(), oldest)]
    assert as_numbers[0] >= as_numbers[1]


def test_what_lists_the_settings_is_what_the_settings_say():
    """docs/settings.md, .env.example and the env of app.json; the message says which differs, and what to type."""
    check = [sys.executable, "-m", "dev.settings_files", "--check"]
    ran = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_every_setting_says_what_it_is_for():
    """The text stands under the field."""
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


def test_the_readme_tells_the_settings_that_everybody_needs_as_they_are():
    """Few of the table's rows, with the same defaults."""
    told = rows(text("README.md").split("\n## Configuration\n")[1].split("\n## ")[0])
    assert "OPENROUTER_API_KEYS" in told
    assert told.items() <= rows(text("docs/settings.md")).items()


@pytest.mark.parametrize("name", ["setup", "run", "demo", "test", "rabbitmq", "settings", "contract"])
def test_a_command_can_be_typed(name: str):
    """Executable, with an interpreter, and its syntax is right."""
    command = ROOT / "script" / name
    assert os.access(command, os.X_OK)
    shell = command.read_text().splitlines()[0].removeprefix("#!")
    subprocess.run([shell, "-n", str(command)], check=True)


def test_every_long_test_is_played_by_a_suite():
    """Otherwise nobody ever plays it: `script/test` leaves it out."""
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tests" / "long").glob("test_*.py")}
    assert files <= {test for _shows, tests in SUITES.values() for test in tests}


def test_ci_types_what_people_type():
    """One list of checks."""
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert text(".ci/run").rstrip().endswith("\nexec script/test")


def test_links_between_our_pages_lead_somewhere():
    """Relative links of every page that we write."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]
    links = [(page, link) for page in pages for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())]
    assert links
    assert not [(page.name, link) for page, link in links if not (page.parent / link).exists()]


def pyproject() -> dict[str, dict]:
    return tomllib.loads(text("pyproject.toml"))


def rows(page: str) -> dict[str, str]:
    """The settings of a page's tables, with their defaults."""
    return dict(re.findall(r"^\| `([A-Z_]+)` \| (?:`(.+?)` )?\|", page, re.MULTILINE))
