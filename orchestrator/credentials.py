"""Passwords in addresses: hidden wherever an address is shown, refused where it would be kept."""

from __future__ import annotations

import os
import re
from urllib.parse import unquote, urlsplit, urlunsplit

#: `scheme://user:password@`, in an address or anywhere in a message. Greedy up to the last `@` of a word, since
#: passwords with `@` or `/` that nobody escaped must be hidden too.
_USERINFO = re.compile(r"(?P<scheme>\b[A-Za-z][A-Za-z0-9+.-]*://)(?P<user>[^\s:/@?#'\"]*)(?P<secret>:\S*)?@")
#: Secrets among the options behind `?`, as PostgreSQL's drivers take them.
_OPTION = re.compile(
    r"(?P<name>[?&][^=&\s]*(?:password|passwd|secret|token|api_?key)[^=&\s]*=)[^&\s'\"]+", re.IGNORECASE
)
_HIDDEN = "***"


def masked(text: str) -> str:
    """An address, or a message with addresses in it, with the passwords hidden.

    `postgresql://me:pw@db/snas` becomes `postgresql://me:***@db/snas`; in `http://TOKEN@host` all before `@` is hidden,
    since servers take bare tokens there.
    """
    return _OPTION.sub(rf"\g<name>{_HIDDEN}", _USERINFO.sub(_hide, text))


def has_password(url: str) -> bool:
    """Whether an address holds a password or a token."""
    return masked(url) != url


def take_tracking_credentials(uri: str) -> str:
    """An HTTP address without the user and password in it; MLflow finds these in its own environment variables.

    MLflow prints the address of its server beside runs and models, so the address must hold no secret.
    """
    if not uri.startswith(("http://", "https://")) or not has_password(uri):
        return uri
    parts = urlsplit(uri)
    user, _, password = parts.netloc.rpartition("@")[0].partition(":")
    if password:
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(user))
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))
    else:
        os.environ.setdefault("MLFLOW_TRACKING_TOKEN", unquote(user))
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    if os.environ.get("MLFLOW_TRACKING_URI") == uri:
        os.environ["MLFLOW_TRACKING_URI"] = bare  # MLflow's own functions read it again
    return bare


def _hide(match: re.Match[str]) -> str:
    user = match["user"]
    if match["secret"] is not None and len(match["secret"]) > 1:
        return f"{match['scheme']}{user}:{_HIDDEN}@"
    hides_user = match["scheme"] in ("http://", "https://") and user
    return f"{match['scheme']}{_HIDDEN}@" if hides_user else match[0]
