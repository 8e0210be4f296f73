"""The storage of trials: an SQLite file, or a database that several machines share."""

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
"""Package to install for a driver, where its name is not the module's."""


class Storage(RDBStorage):
    """Optuna's storage, in which a heartbeat that cannot be written is skipped.

    Optuna's own thread of heartbeats would end at the first failure, and the trial would be given
    to another machine.
    """

    def record_heartbeat(self, trial_id: int) -> None:
        """Record that the machine of a trial is alive, if the database can be reached."""
        with contextlib.suppress(StorageInternalError):
            super().record_heartbeat(trial_id)


@contextlib.contextmanager
def open_storage(url: str | None, file: Path) -> Iterator[Storage]:
    """Open the storage of the trials, and close it at the end.

    Args:
        url: An SQLAlchemy URL; None for an SQLite file.
        file: The SQLite file.

    Raises:
        MethodError: The storage cannot be opened, or was lost while it was in use.
    """
    if url is None:
        file.parent.mkdir(parents=True, exist_ok=True)
    address = url or f"sqlite:///{file}"
    try:
        storage = _open(address)
    except MethodError:
        raise
    except (
        Exception
    ) as error:  # of SQLAlchemy, of the driver, or of Optuna for another version's file
        raise MethodError(_open_failed_message(url, file, error)) from error
    try:
        yield storage
    except (StorageInternalError, SQLAlchemyError, UnboundLocalError) as error:
        lost = _find_storage_error(error)
        if lost is None:
            raise
        raise MethodError(_lost_message(url, file, lost)) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _open(address: str) -> Storage:
    in_file = address.startswith("sqlite")
    # pool_pre_ping: reconnect if the server or a firewall has closed the connection meanwhile
    options = {"connect_args": {"timeout": 60}} if in_file else {"pool_pre_ping": True}

    def connect() -> Storage:
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
                return connect()
            except DBAPIError as error:  # another machine may be creating the tables
                if _is_damaged(error):
                    raise
            time.sleep(WAIT_SECONDS)
        return connect()
    except ImportError as error:  # raised by Optuna for the driver
        driver = getattr(error.__cause__, "name", None) or "the database's driver"
        raise MethodError(
            f"storage = {hide_password(address)!r}: {driver} is not installed; pip install "
            f"'{WHEELS.get(driver, driver)}'"
        ) from error


def _open_failed_message(url: str | None, file: Path, error: Exception) -> str:
    """Return the message for a storage that cannot be opened: the user's, or the study's file."""
    if url is not None:
        return (
            f"storage = {hide_password(url)!r}: cannot be opened ({_summarise(error)}); expected "
            "an SQLAlchemy URL such as postgresql://user@host/database, of a database that this "
            "machine can reach"
        )
    if isinstance(error, OperationalError) and not _is_damaged(error):
        return (
            f"{file}, the file of the trials, cannot be opened ({_summarise(error)}); expected a "
            "file that can be written, in a folder where files can be created"
        )
    return _damaged_message(file, error)


def _lost_message(url: str | None, file: Path, error: Exception) -> str:
    """Return the message for a storage that failed after it was opened."""
    if url is None and _is_damaged(error):
        return _damaged_message(file, error)
    return (
        f"storage = {hide_password(url or str(file))!r} was lost ({_summarise(error)}); once it is "
        "available again, run the same command to continue"
    )


def _find_storage_error(error: BaseException | None) -> Exception | None:
    """Return the storage error that caused this one; None if there is none.

    Optuna 5.0.0 turns a storage error at the end of a trial into an `UnboundLocalError`.
    """
    while error is not None and not isinstance(error, StorageInternalError | SQLAlchemyError):
        error = error.__context__
    return error


def _damaged_message(file: Path, error: Exception) -> str:
    """Return the message for a damaged file: what to delete, and what is lost."""
    return (
        f"{file}, the file of the trials, cannot be read ({_summarise(error)}). Delete it, and the "
        f"folder {file.parent / 'trials'} if there is one: the trials of methods whose tuning is "
        "not finished are lost, and the same command repeats them; finished tuning, in the *.json "
        "beside it, and finished runs are kept"
    )


def _is_damaged(error: BaseException | None) -> bool:
    """Return whether SQLite reports a damaged file, or one that is not a database."""
    while isinstance(error, StorageInternalError):
        error = error.__cause__
    code = getattr(getattr(error, "orig", None), "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def hide_password(text: str) -> str:
    """Return a URL or any other argument with *** in place of a password."""
    text = re.sub(r"(://[^:/@]*:).*@", r"\1***@", text, flags=re.DOTALL)
    return re.sub(r"([?&](?:password|passwd|sslpassword)=)[^&]*", r"\1***", text)


def _summarise(error: BaseException) -> str:
    """Return the driver's message on one line, without SQLAlchemy's statement and links."""
    while isinstance(error, StorageInternalError) and error.__cause__ is not None:
        error = error.__cause__
    said = error.orig if isinstance(error, DBAPIError) and error.orig else error
    return hide_password(" ".join(str(said).split()))


@contextlib.contextmanager
def silence_optuna() -> Iterator[None]:
    """Silence Optuna's log of every trial and its warning that heartbeats are experimental."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
