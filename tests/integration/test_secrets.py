"""No password in any file that a run leaves behind, nor in what it says, whatever goes wrong meanwhile."""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from tests.integration.servers import MlflowServer, PostgresServer
from tests.integration.studies import STUDY, StudyProcess
from tests.orchestrator.tiny import RETRAIN

pytestmark = [pytest.mark.integration, pytest.mark.slow]

#: What is looked for; the passwords around them have characters that an address must escape.
DATABASE_CORE, TRACKING_CORE = "pl4ntedAtPostgres7f3a", "pl4ntedAtMlflow9c1e"
DATABASE_PASSWORD, TRACKING_PASSWORD = f"{DATABASE_CORE}/@ %+", f"{TRACKING_CORE}/@ %+"
USER = "alice"
SPEC: dict[str, Any] = {
    **STUDY,
    "name": "guarded",
    "retrain": {**RETRAIN, "top": 1},
}


def forms(core: str) -> list[bytes]:
    """How a word looks in plain text and escaped addresses, as hexadecimal digits, and at any place in base64."""
    plain = core.encode()
    found = [plain, plain.hex().encode(), plain.decode().encode("utf-16-le")]
    for shift in range(3):
        encoded = base64.b64encode(bytes(shift) + plain).rstrip(b"=")
        # The first and last characters hold bits of what is before and behind, too.
        found.append(encoded[(0, 2, 3)[shift] : len(encoded) - (1 if (shift + len(plain)) % 3 else 0)])
    return found


FORMS = [*forms(DATABASE_CORE), *forms(TRACKING_CORE)]


def leaks(folder: Path) -> list[str]:
    """Files of a folder, and members of archives there, that hold a planted password in any form."""
    found = []
    for file in (path for path in folder.rglob("*") if path.is_file()):
        if any(form in file.read_bytes() for form in FORMS):
            found.append(str(file))
        elif zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as archive:
                members = [name for name in archive.namelist() if any(form in archive.read(name) for form in FORMS)]
            found += [f"{file}: {name}" for name in members]
    return found


@pytest.fixture
def postgres_with_password(postgres_programs: None) -> Iterator[PostgresServer]:
    with PostgresServer(DATABASE_PASSWORD) as server:
        yield server


@pytest.fixture
def guarded_mlflow(postgres_with_password: PostgresServer, tmp_path: Path) -> Iterator[MlflowServer]:
    """A tracking server that asks for a login, on a database that asks for a password."""
    store = postgres_with_password.create_database("mlflow")
    login, environment = (USER, TRACKING_PASSWORD), {"PGPASSWORD": DATABASE_PASSWORD}
    with MlflowServer(tmp_path / "mlflow-server", store, login=login, environment=environment) as server:
        yield server


@pytest.fixture
def scratch(socket_folder: Callable[[], Path]) -> Path:
    """For Ray's session and temporary files."""
    folder = socket_folder()
    for name in ("ray", "tmp", "home"):
        (folder / name).mkdir()
    return folder


def in_variables(postgres: PostgresServer, server: MlflowServer) -> dict[str, str]:
    return {
        "OPTUNA_STORAGE": postgres.url("optuna"),
        "PGPASSWORD": DATABASE_PASSWORD,
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_TRACKING_USERNAME": USER,
        "MLFLOW_TRACKING_PASSWORD": TRACKING_PASSWORD,
    }


def in_addresses(postgres: PostgresServer, server: MlflowServer) -> dict[str, str]:
    database, login = quote(DATABASE_PASSWORD, safe=""), f"{USER}:{quote(TRACKING_PASSWORD, safe='')}"
    return {
        "OPTUNA_STORAGE": postgres.url("optuna").replace("snas@", f"snas:{database}@"),
        "MLFLOW_TRACKING_URI": server.uri.replace("http://", f"http://{login}@"),
    }


@pytest.mark.parametrize(
    "text",
    [
        DATABASE_PASSWORD,
        f"postgresql://snas:{quote(DATABASE_PASSWORD, safe='')}@db/optuna",
        *(f"Basic {base64.b64encode(f'{user}:{TRACKING_PASSWORD}'.encode()).decode()}" for user in ("a", "al", "ali")),
        TRACKING_PASSWORD.encode().hex(),
    ],
)
def test_leak_is_found(text: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "binary").write_bytes(b"\x00\xff" + text.encode() + b"\x00")
    with zipfile.ZipFile(tmp_path / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", text * 10)
    (tmp_path / "innocent").write_text("planted")
    assert sorted(leaks(tmp_path)) == [f"{tmp_path}/archive.zip: member", f"{tmp_path}/folder/binary"]


def test_no_password_is_left_behind(
    postgres_with_password: PostgresServer, guarded_mlflow: MlflowServer, tmp_path: Path, scratch: Path
) -> None:
    """Of commands that take the passwords from variables of their own, and from the addresses, in turn."""
    postgres = postgres_with_password
    postgres.create_database("optuna")
    places = {"RAY_TMPDIR": str(scratch / "ray"), "TMPDIR": str(scratch / "tmp"), "HOME": str(scratch / "home")}
    studies = [
        StudyProcess(
            tmp_path / "study",
            SPEC,
            environment={**credentials(postgres, guarded_mlflow), **places},
            is_preloaded=False,
        )
        for credentials in (in_variables, in_addresses)
    ]
    try:
        _run_through_faults(*studies, postgres, guarded_mlflow)
    finally:
        for study in studies:
            study.kill()

    left = [path.relative_to(scratch).as_posix() for path in scratch.rglob("*")]
    assert any(path.startswith("ray/") and path.endswith("/raylet.out") for path in left), "Ray's logs"
    assert any(path.startswith("tmp/snas-tune-") for path in left), "what a killed driver leaves"
    assert list(guarded_mlflow.artifacts.rglob("genotype.json"))
    assert leaks(tmp_path) == []
    assert leaks(scratch) == []
    for database in ("optuna", "mlflow"):
        dump = postgres.dump(database)
        assert "guarded" in dump
        assert not any(form in dump.encode() for form in FORMS), database


def _run_through_faults(
    study: StudyProcess, other: StudyProcess, postgres: PostgresServer, server: MlflowServer
) -> None:
    """Run a study to its end by two processes in turn, which are killed, and say all that they can say of servers."""
    study.start()
    with study.held(1):
        server.kill()
    study.wait_until(lambda: "MLflow is behind and will be brought up later" in study.log)
    study.kill()
    other.resume()
    other.finish(2)
    assert f"the MLflow store http://127.0.0.1:{server.port} must be reachable" in _words(other.log)
    server.start()
    postgres.kill()
    for number, process in enumerate((study, other), start=1):
        process.start("show", study.name)
        process.finish(2)
        assert _words(study.log).count(f"@127.0.0.1:{postgres.port}/optuna must hold the study") == number
    postgres.start()
    other.resume()
    with other.held(3):
        other.kill()
    study.resume()
    study.finish()
    other.start("doctor", study.name)
    other.finish()
    assert "the study is whole" in _words(other.log)


def _words(text: str) -> str:
    return " ".join(text.split())
