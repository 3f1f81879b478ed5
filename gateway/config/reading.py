"""From files and environment to typed settings, with errors that say where and what would be right."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, SecretStr, ValidationError

from gateway.config.base import ModelT
from gateway.config.gateway import GatewayConfig
from gateway.config.store import PostgresStore
from gateway.errors import ConfigError

CLOUD_ENVIRONMENT: Mapping[str, str] = {
    "CLOUD_ROUTING_KEY": "routing_key",
    "CLOUD_ROUTING_SECRET": "routing_secret",
    "CLOUD_RPC_HOST": "host",
    "CLOUD_RPC_PORT": "port",
    "CLOUD_RPC_TIMEOUT": "timeout_ms",
    "CLOUD_RPC_SSL_ENABLED": "ssl_enabled",
    "CLOUD_RPC_SSL_CERT": "ssl_cert",
}


def load_config(path: Path | None, environ: Mapping[str, str]) -> GatewayConfig:
    """Read, merge and check.

    Raises:
        ConfigError: With the path inside the file and what would be right.
    """
    tree: dict[str, Any] = {}
    if path is not None:
        tree = _read_yaml(path)
        for extra in sorted((path.parent / "conf.d").glob("*.yaml")):
            _merge(tree, _read_yaml(extra))
    # A section whose keys are all commented out reads as null: it means the defaults.
    tree = {section: content for section, content in tree.items() if content is not None}
    _overlay_environment(tree, environ)
    config = _with_secret_files(parse_config(GatewayConfig, tree, where=""), environ)
    config._folder = path.parent if path is not None else None
    return config


def load_settings(model: type[ModelT], path: Path) -> ModelT:
    """Another file of typed settings, beside the configuration.

    Raises:
        ConfigError: As `load_config`; the place begins with the file.
    """
    tree = _read_yaml(path)
    try:
        return parse_config(model, tree, "")
    except ConfigError as error:
        raise ConfigError(f"{path}: {error.where}", error.problem) from None


def parse_config(model: type[ModelT], tree: Any, where: str, folder: Path | None = None) -> ModelT:
    """Validate a tree against a model; used for driver configurations too.

    `folder`, that of the configuration file, is told to validators as `info.context["folder"]`.
    """
    try:
        return model.model_validate(tree, context={"folder": folder})
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        # A misspelt key is often also a missing one: the misspelling is what helps.
        first = next((problem for problem in problems if problem["type"] == "extra_forbidden"), problems[0])
        raise ConfigError(*_explain(model, first, where)) from None


_PLAIN_WORDS: Mapping[str, str] = {
    "missing": "is missing",
    "too_short": "must not be empty",
    "tuple_type": "must be a list: lines that begin with '- '",
    "dict_type": "must be a mapping of 'key: value' lines",
    "model_type": "must be a mapping of 'key: value' lines",
    "model_attributes_type": "must be a mapping of 'key: value' lines",
}


def _explain(model: type[BaseModel], error: Any, where: str) -> tuple[str, str]:
    parts = [p for p in error["loc"] if not (isinstance(p, str) and p in ("sqlite", "postgres", "function-after"))]
    path = where
    for part in parts:
        path += f"[{part}]" if isinstance(part, int) else (f".{part}" if path else str(part))
    text = _PLAIN_WORDS.get(error["type"]) or str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "union_tag_not_found":
        path, text = f"{path}.kind", f"is missing; one of {', '.join(_kinds_of_union(model, parts))}"
    elif error["type"] == "extra_forbidden":
        known = _keys_at(model, parts[:-1])
        close = difflib.get_close_matches(str(parts[-1]), known, n=1)
        text = "unknown key; " + (f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(sorted(known))}")
    return path or "(file)", text


def _keys_at(model: Any, parts: list[Any]) -> list[str]:
    current: list[type[BaseModel]] = [model]
    for part in parts:
        if isinstance(part, int):
            continue
        found: list[type[BaseModel]] = []
        for candidate in current:
            info = candidate.model_fields.get(str(part))
            if info is not None:
                found += _models_in(info.annotation)
        current = found or current
    return [key for candidate in current for key in candidate.model_fields]


def _kinds_of_union(model: type[BaseModel], parts: list[Any]) -> list[str]:
    info = model.model_fields.get(str(parts[-1])) if parts else None
    found = _models_in(info.annotation) if info else []
    return [str(value) for each in found for value in typing.get_args(each.model_fields["kind"].annotation)]


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arg in typing.get_args(annotation) for model in _models_in(arg)]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except PermissionError:
        raise ConfigError(str(path), "no rights to read it: try as root or as a member of its group") from None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(
            str(path), f"is no text in UTF-8: byte {error.start} is 0x{error.object[error.start]:02x}"
        ) from None
    tree = _parse_yaml(text, str(path))
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise ConfigError(str(path), "must be a mapping of sections such as 'cloud:' and 'devices:'")
    return tree


class _Loader(yaml.SafeLoader):
    """A key that stands twice is an error: the first one would be forgotten without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != "tag:yaml.org,2002:merge":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"the key {key.value!r} stands twice; keep one", key.start_mark
                    )
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ConfigError(f"{where}{place}", f"not YAML: {getattr(error, 'problem', error)}") from None


def _merge(base: dict[str, Any], extra: Mapping[str, Any]) -> None:
    for key, value in extra.items():
        if isinstance(value, dict) and isinstance(base.get(key), dict):
            _merge(base[key], value)
        elif value is not None or key not in base:  # a section whose keys are all commented out says nothing
            base[key] = value


def _overlay_environment(tree: dict[str, Any], environ: Mapping[str, str]) -> None:
    for name, key in CLOUD_ENVIRONMENT.items():
        if environ.get(name):
            _set(tree, ["cloud", key], environ[name])
    for name, value in environ.items():
        if name.startswith("EDGE_GATEWAY__"):
            _set(tree, name.removeprefix("EDGE_GATEWAY__").lower().split("__"), _parse_yaml(value, name))


def _set(tree: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            raise ConfigError(".".join(path), "the environment sets a key below something that is not a section")
    tree[path[-1]] = value


def _with_secret_files(config: GatewayConfig, environ: Mapping[str, str]) -> GatewayConfig:
    """Fill secrets from files: named ones, then systemd credentials `cloud.key` and `cloud.secret`."""
    update: dict[str, Any] = {}
    credentials = Path(environ["CREDENTIALS_DIRECTORY"]) if environ.get("CREDENTIALS_DIRECTORY") else None
    for key, named, credential in (
        ("routing_key", config.cloud.routing_key_file, "cloud.key"),
        ("routing_secret", config.cloud.routing_secret_file, "cloud.secret"),
    ):
        source = named
        if source is None and credentials is not None and _has_text(credentials / credential):
            source = credentials / credential
        if source is not None and not getattr(config.cloud, key).get_secret_value():
            update[key] = SecretStr(_read_secret(source, f"cloud.{key}_file"))
    devices = tuple(
        device.model_copy(
            update={
                "access_token": SecretStr(_read_secret(device.access_token_file, f"devices[{index}].access_token_file"))
            }
        )
        if device.access_token_file and not device.access_token
        else device
        for index, device in enumerate(config.devices)
    )
    keys = tuple(
        key.model_copy(
            update={"secret": SecretStr(_read_secret(key.secret_file, f"provisioning.keys[{index}].secret_file"))}
        )
        if key.secret_file
        else key
        for index, key in enumerate(config.provisioning.keys)
    )
    provisioning = config.provisioning.model_copy(update={"keys": keys})
    external = config.external_broker
    if external.password_file is not None and external.password is None:
        password = SecretStr(_read_secret(external.password_file, "external_broker.password_file"))
        external = external.model_copy(update={"password": password})
    cloud = config.cloud.model_copy(update=update)
    if isinstance(config.store, PostgresStore) and not _is_postgres_url(config.store.url.get_secret_value()):
        raise ConfigError("store.url", "must look like postgresql://user:password@host:port/database")
    return config.model_copy(
        update={"cloud": cloud, "devices": devices, "provisioning": provisioning, "external_broker": external}
    )


def _is_postgres_url(text: str) -> bool:
    try:
        url = urlsplit(text)
        return url.scheme in ("postgresql", "postgres") and (url.port is None or url.port > 0)
    except ValueError:  # a port that is no number, an address with half a bracket
        return False


def _has_text(path: Path) -> bool:
    """The unit gives an empty credential when the file behind it does not exist."""
    return path.is_file() and path.stat().st_size > 0


def _read_secret(path: Path, where: str) -> str:
    try:
        secret = path.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(where, f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(where, f"{path} is no text; it must hold the secret and nothing else") from None
    if not secret:
        raise ConfigError(where, f"{path} is empty; it must hold the secret and nothing else")
    return secret
