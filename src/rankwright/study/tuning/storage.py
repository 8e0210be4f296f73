"""Where trials are kept: a file, or a database that several machines share."""

from __future__ import annotations

import contextlib
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError

from rankwright.errors import MethodError

HEARTBEAT_SECONDS = 5
GRACE_SECONDS = 30
OPEN_ATTEMPTS = 5
WAIT_SECONDS = 1.0
WHEELS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary"}
"""What to install for a driver, where it is not called as its module is."""


class Storage(RDBStorage):
    """Optuna's, in which a heartbeat that cannot be written is followed by the next one.

    Optuna's thread of heartbeats would end with the first, and the trial go to another machine.
    """

    def record_heartbeat(self, trial_id: int) -> None:
        """Say that the machine of a trial is alive, if the database can be reached."""
        with contextlib.suppress(StorageInternalError):
            super().record_heartbeat(trial_id)


@contextlib.contextmanager
def storage_of_trials(url: str | None, file: Path) -> Iterator[Storage]:
    """The storage of the trials, closed at the end.

    Args:
        url: An SQLAlchemy URL; None for an SQLite file.
        file: That file.

    Raises:
        MethodError: The storage cannot be opened, or it was lost on the way.
    """
    if url is None:
        file.parent.mkdir(parents=True, exist_ok=True)
    address = url or f"sqlite:///{file}"
    try:
        storage = _opened(address)
    except MethodError:
        raise
    except Exception as error:  # sqlalchemy's, the driver's, or Optuna's of another version's file
        raise MethodError(_not_opened(url, file, error)) from error
    try:
        yield storage
    except (StorageInternalError, SQLAlchemyError, UnboundLocalError) as error:
        lost = _of_storage(error)
        if lost is None:
            raise
        raise MethodError(_lost(url, file, lost)) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _opened(address: str) -> Storage:
    in_file = address.startswith("sqlite")
    # A connection that the server or a firewall has closed meanwhile is made anew.
    options = {"connect_args": {"timeout": 60}} if in_file else {"pool_pre_ping": True}

    def opened() -> Storage:
        return Storage(
            address,
            engine_kwargs=options,
            heartbeat_interval=HEARTBEAT_SECONDS,
            grace_period=GRACE_SECONDS,
            heartbeat_stale_trial_callback=RetryHeartbeatStaleTrialCallback(),
        )

    try:
        for _ in range(OPEN_ATTEMPTS - 1):
            try:
                return opened()
            except DBAPIError as error:  # another machine may just be making the tables
                if _damaged(error):
                    raise
            time.sleep(WAIT_SECONDS)
        return opened()
    except ImportError as error:  # Optuna's, of the driver's
        driver = getattr(error.__cause__, "name", None) or "the database's driver"
        raise MethodError(
            f"storage = {without_password(address)!r}: {driver} is not installed; pip install "
            f"'{WHEELS.get(driver, driver)}'"
        ) from error


def _not_opened(url: str | None, file: Path, error: Exception) -> str:
    """The message about a storage that cannot be opened, the user's or our own file."""
    if url is not None:
        return (
            f"storage = {without_password(url)!r}: cannot be opened ({_in_short(error)}); expected "
            "an SQLAlchemy URL such as postgresql://user@host/database, of a database that this "
            "machine reaches"
        )
    if isinstance(error, OperationalError) and not _damaged(error):
        return (
            f"{file}, the file of the trials, cannot be opened ({_in_short(error)}); expected a "
            "file that can be written, in a folder where files can be made"
        )
    return _not_readable(file, error)


def _lost(url: str | None, file: Path, error: Exception) -> str:
    """The message about a storage that failed after it was opened."""
    if url is None and _damaged(error):
        return _not_readable(file, error)
    return (
        f"storage = {without_password(url or str(file))!r} was lost ({_in_short(error)}); when it "
        "is there again, the same command goes on"
    )


def _of_storage(error: BaseException | None) -> Exception | None:
    """The storage error that caused this one; None if none did.

    Optuna 5.0.0 turns a storage error at the end of a trial into an `UnboundLocalError`.
    """
    while error is not None and not isinstance(error, StorageInternalError | SQLAlchemyError):
        error = error.__context__
    return error


def _not_readable(file: Path, error: Exception) -> str:
    """The message about a damaged file: what to delete, and what is lost."""
    return (
        f"{file}, the file of the trials, cannot be read ({_in_short(error)}). Delete it, and the "
        f"folder {file.parent / 'trials'} if there is one: the trials of methods whose tuning is "
        "not finished are lost, and the same command makes them again; finished tuning, in the "
        "*.json beside it, and finished runs are kept"
    )


def _damaged(error: BaseException | None) -> bool:
    """Whether SQLite reports a damaged file, or one that is not a database."""
    while isinstance(error, StorageInternalError):
        error = error.__cause__
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def without_password(text: str) -> str:
    """A URL, or any other argument, with *** for the password that it may hold."""
    text = re.sub(r"(://[^:/@]*:).*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"([?&](?:password|passwd|sslpassword)=)[^&]*", r"\1***", text)


def _in_short(error: BaseException) -> str:
    """What the driver says, on one line, without SQLAlchemy's statement and links."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return without_password(" ".join(str(said).split()))


@contextlib.contextmanager
def quiet_optuna() -> Iterator[None]:
    """Without Optuna's log of every trial, and without its saying that heartbeats are new."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
