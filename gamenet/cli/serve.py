"""`gamenet serve`: finds a server object in the user's module and runs it.

What stays true: what the user gave wrongly is one line; what fails inside the user's module keeps its traceback.
"""

from __future__ import annotations

import importlib
import logging
import os
import ssl
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import reduce
from types import ModuleType

import click

from gamenet.cli.running import run_server
from gamenet.run import LoopName
from gamenet.server import Server

logger = logging.getLogger("gamenet")


@dataclass(frozen=True, slots=True)
class MetricsOptions:
    """Where Prometheus is answered, and whether handlers are timed."""

    host: str
    port: int
    handlers: bool


def serve(
    target: str,
    host: str,
    port: int,
    loop: LoopName,
    tls_cert: str | None,
    tls_key: str | None,
    metrics: MetricsOptions | None = None,
) -> None:
    """Run the server that `target` ("module:server") names, with TLS if a certificate is given."""
    context = _tls_context(tls_cert, tls_key)
    server = find_server(target)
    if context is not None:
        server.ssl = context
    with nullcontext() if metrics is None else _exported(server, target, metrics):
        run_server(server, host, port, loop)


@contextmanager
def _exported(server: Server, target: str, options: MetricsOptions) -> Iterator[None]:
    try:
        from gamenet import metrics
    except ModuleNotFoundError as error:
        if error.name != "prometheus_client":
            raise
        raise click.ClickException(str(error)) from None
    with ExitStack() as stack:
        try:
            port = stack.enter_context(metrics.serving(options.port, options.host))
        except OSError as error:
            raise click.ClickException(f"cannot listen on {options.host} port {options.port}: {error}") from None
        stack.callback(metrics.export(server, name=target, handlers=options.handlers).close)
        logger.info("metrics on http://%s:%s/metrics", options.host, port)
        yield


def find_server(target: str) -> Server:
    """The `gamenet.Server` that "module:server" names; the current folder is looked into first."""
    module_name, _, attribute = target.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), *attribute.split(".")]):
        raise click.UsageError(f"{target!r} is not of the form MODULE:SERVER, such as chat_server:server")
    module = _import(module_name)
    try:
        found: object = reduce(getattr, attribute.split("."), module)
    except AttributeError:
        raise click.ClickException(f"the module {module_name!r} has no {attribute!r}") from None
    if not isinstance(found, Server):
        raise click.ClickException(f"{target} is no gamenet.Server but a {type(found).__name__}")
    return found


def _import(name: str) -> ModuleType:
    sys.path.insert(0, os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise  # a module that the user's module misses
        hint = "; leave the .py away" if name.endswith(".py") else ""
        raise click.ClickException(f"there is no module {error.name!r} in {os.getcwd()} or on sys.path{hint}") from None


def _tls_context(certificate: str | None, key: str | None) -> ssl.SSLContext | None:
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        raise click.UsageError("--tls-cert and --tls-key belong together: give both or none")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        # a service has nobody who could type a password: an encrypted key is an error, not a question
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # an SSLError is one
        raise click.ClickException(f"cannot use {certificate} with {key}: {error}") from None
    return context
