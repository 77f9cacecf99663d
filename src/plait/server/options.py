"""Options of the server, declared once with their help. Knows `config`."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import Any

from plait.config import flag_of, option
from plait.errors import OptionError
from plait.types import Priority

MOST = 2**31 - 1
_WHOLE = ["port", "max_body_mib", "max_connections", "key_requests", "key_tokens", "key_rpm", "key_tpm"]
_SECONDS = ("timeout", "send_timeout", "receive_timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """Where the server listens, whom it serves, and how much each may ask. 0 is no bound.

    Raises `OptionError` for a value that cannot be used.
    """

    host: str = option("127.0.0.1", "--host", help="Address to listen on.", env="PLAIT_HOST")
    port: int = option(8000, "--port", help="Port to listen on; 0 takes a free one.", env="PLAIT_PORT")
    alias: str = option("", "-a", "--alias", help="Name of the model in the API; default: the file's.")
    api_key: tuple[str, ...] = option(
        (), "--api-key", help="A key that clients must send; may be given several times.", env="PLAIT_API_KEY"
    )
    api_key_file: str = option("", "--api-key-file", help="A file of such keys, one a line; # begins a comment.")
    ssl_cert_file: str = option("", "--ssl-cert-file", help="Serve TLS with this certificate (PEM).")
    ssl_key_file: str = option("", "--ssl-key-file", help="The certificate's private key (PEM).")
    cors_origins: tuple[str, ...] = option(
        (), "--cors-origin", help="Let pages of this origin use the API; may be given several times; * is all."
    )
    allowed_host: tuple[str, ...] = option(
        (),
        "--allowed-host",
        help="Another name by which the server may be called, beside addresses and localhost; * is all. Asked where "
        "it listens on this machine alone, against pages whose name points here.",
    )
    chat_template: str = option(
        "",
        "--chat-template",
        "--chat-template-file",
        help="A file with the chat template (Jinja) to use, not the model's own; or a plain one by its name, chatml.",
    )
    timeout: float = option(0.0, "-to", "--timeout", help="Seconds the engine may take for a request; 0 is no bound.")
    send_timeout: float = option(
        60.0, "--send-timeout", help="Cut off a reader that takes nothing for so many seconds."
    )
    receive_timeout: float = option(
        60.0, "--receive-timeout", help="Cut off a client whose request, body and all, takes more seconds to come."
    )
    max_body_mib: int = option(8, "--max-body", help="Refuse bodies of more MiB.")
    max_connections: int = option(
        2048, "--max-connections", help="Answer 503 beyond so many requests at once; 0 is no bound."
    )
    key_requests: int = option(0, "--key-requests", help="Requests of one key at once.")
    key_tokens: int = option(0, "--key-tokens", help="Tokens of one key at once: prompts, and what may be generated.")
    key_rpm: int = option(0, "--key-rpm", help="Requests of one key in a minute.")
    key_tpm: int = option(0, "--key-tpm", help="Tokens of one key in a minute, prompts and generated.")
    key_priority: str = option(
        "normal", "--key-priority", help="Highest class of requests with a key: high, normal, low or background."
    )
    share_prefixes: bool = option(
        False, "--share-prefixes/--no-share-prefixes", help="Let different keys share the KV memory of equal prefixes."
    )
    log_prompts: bool = option(False, "--log-prompts", help="Write prompts to the log.")
    slot_save_path: str = option("", "--slot-save-path", help="Folder for /slots/ID?action=save and restore.")

    def __post_init__(self) -> None:
        for name in (*_WHOLE, *_SECONDS):
            value: Any = getattr(self, name)
            fits = isinstance(value, int) if name in _WHOLE else isinstance(value, Real)
            if not fits or not 0 <= value <= MOST:
                raise OptionError(f"{flag_of(ServerOptions, name)} is {value!r}; give 0 or more")
        if self.port > 65535:
            raise OptionError(f"--port is {self.port}; give 0 to 65535")
        if self.key_priority.upper() not in Priority.__members__:
            raise OptionError(f"--key-priority is '{self.key_priority}'; give high, normal, low or background")
        if not self.host:
            raise OptionError("--host is empty; give an address, such as 127.0.0.1")
        if bool(self.ssl_cert_file) != bool(self.ssl_key_file):
            raise OptionError("TLS needs both --ssl-cert-file and --ssl-key-file")
        for name in ("ssl_cert_file", "ssl_key_file", "api_key_file"):
            file = getattr(self, name)
            if file and not Path(file).is_file():
                raise OptionError(f"{flag_of(ServerOptions, name)}: there is no file {file}")
        if self.slot_save_path and not Path(self.slot_save_path).is_dir():
            raise OptionError(f"--slot-save-path: there is no folder {self.slot_save_path}")

    @property
    def highest(self) -> Priority:
        """The class above which no request with a key comes."""
        return Priority[self.key_priority.upper()]

    @property
    def is_public(self) -> bool:
        """Whether others than this machine can connect."""
        if self.host == "localhost":
            return False
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return True
