"""The options of ssh_config(5) that are honoured; ssh_refusals.py has the others.

The code that reads ``ssh_options`` and docs/ssh_options.md both come from these tables.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from typing import Literal

from fabremote import ssh_values as v

Status = Literal["honoured", "fixed", "refused"]


@dataclass(frozen=True)
class Option:
    """One option of ssh_config(5).

    ``field``: the setting it gives, for an honoured one, and ``read``, which
    makes it from the value. ``values``: for a fixed one, the only ones possible.
    ``allowed``: what may be given, in words. ``note``: what an honoured option
    does here; for another one, why that is not possible and what to do instead.
    """

    name: str
    note: str
    allowed: str = ""
    field: str = ""
    read: v.Reader | None = None
    values: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """Whether it is honoured, fixed or refused."""
        return "honoured" if self.read else "fixed" if self.values else "refused"


def _on(name: str, field: str, read: v.Reader, allowed: str, note: str) -> Option:
    return Option(name, note, allowed, field, read)


def _yes_no(name: str, field: str, note: str) -> Option:
    return _on(name, field, v.one(v.boolean), "yes or no", note)


def _algorithms(name: str, field: str, kind: str, note: str) -> Option:
    return _on(name, field, v.algorithms(kind), ALGORITHMS, note)


FAMILIES = {"any": socket.AF_UNSPEC, "inet": socket.AF_INET, "inet6": socket.AF_INET6}
STRICT = {
    **dict.fromkeys(v.TRUE, "yes"),
    **dict.fromkeys((*v.FALSE, "off"), "no"),
    "ask": "ask",
    "accept-new": "accept-new",
}
PATH = "a file name; `~`, `${NAME}` and the tokens of ssh_config(5) but %C and %j"
PATHS = "file names separated by spaces, or a list; none for no file"
TIME = "seconds, or a time such as 1m30s"
NO_LIMIT = "; 0 or none for no limit"
ALGORITHMS = "names with commas, wildcards, and + - ^ in front"
TEXT = "a text"
LEFT_OUT = "Algorithms of OpenSSH that paramiko lacks are left out of the list."
HOST_KEYS = "The host's key is verified with OpenSSH's rules."


HONOURED = (
    _on(
        "AddressFamily",
        "address_family",
        v.one(v.choice(FAMILIES)),
        "any, inet or inet6",
        "The kind of address used for the TCP connection.",
    ),
    _yes_no("BatchMode", "batch", "yes: nobody is asked for a password or about a host key."),
    _on("BindAddress", "bind_address", v.one(v.name), "an address", "Connects from this address."),
    _on(
        "BindInterface",
        "bind_interface",
        v.one(v.name),
        "a network interface",
        "Connects from this interface's first address; on Linux only.",
    ),
    _on(
        "CertificateFile",
        "certificate_files",
        v.each,
        f"{PATH}; a list for several; none for no certificate, not even KEY-cert.pub",
        "Certificates offered with the key that each belongs to, in a file or in the agent.",
    ),
    _yes_no(
        "CheckHostIP",
        "host_keys.check_ip",
        "yes: the key must not contradict what known_hosts has for the address either.",
    ),
    _algorithms("Ciphers", "ciphers", "ciphers", f"The ciphers offered. {LEFT_OUT}"),
    _yes_no("Compression", "compress", "Compresses both directions with zlib after login."),
    _on(
        "ConnectionAttempts",
        "connection_attempts",
        v.one(v.integer(1, 1000)),
        "1 to 1000",
        "How often the TCP connection is tried, a second apart.",
    ),
    _on(
        "ConnectTimeout",
        "connect_timeout",
        v.one(v.seconds),
        TIME + NO_LIMIT,
        "For the TCP connection to each address, and for the SSH handshake.",
    ),
    _yes_no(
        "ForwardAgent",
        "forward_agent",
        "Forwards the agent of SSH_AUTH_SOCK. A path or $NAME is not possible, nor is an "
        "IdentityAgent of its own with it: paramiko forwards no other agent.",
    ),
    _on(
        "GlobalKnownHostsFile",
        "host_keys.global_files",
        v.files,
        PATHS,
        f"{HOST_KEYS} These files are only read.",
    ),
    _yes_no("HashKnownHosts", "host_keys.hash_new", "Hashes the names that are added to a file."),
    _on(
        "HostKeyAlgorithms",
        "host_keys.algorithms",
        v.host_key_algorithms,
        ALGORITHMS,
        "The kinds of host key and of host certificate asked for; certificates where an "
        f"authority is known for the host. {LEFT_OUT}",
    ),
    _on(
        "HostKeyAlias",
        "host_keys.alias",
        v.one(v.name),
        "a name",
        "The name looked up in known_hosts in place of the host's.",
    ),
    _on(
        "HostName",
        "hostname",
        v.one(v.tokens("%h")),
        "a name or an address; %h is the name given",
        "The host to connect to.",
    ),
    _yes_no("IdentitiesOnly", "identities_only", "yes: of the agent's keys, only those in files."),
    _on(
        "IdentityAgent",
        "identity_agent",
        v.one(v.check_tokens),
        f"{PATH}; none, SSH_AUTH_SOCK, or $NAME of a variable",
        "The agent's socket.",
    ),
    _on(
        "IdentityFile",
        "identity_files",
        v.each,
        f"{PATH}; a list for several; none for no file",
        "Private keys to log in with, in order, instead of ~/.ssh/id_*; a .pub file names a key "
        "of the agent.",
    ),
    _on(
        "IPQoS",
        "ip_service",
        v.service,
        "af11 to af43, cs0 to cs7, ef, le, lowdelay, throughput, reliability, 0 to 255 or none; "
        "of two, the second is used",
        "The class of service of the TCP connection's packets.",
    ),
    _yes_no(
        "KbdInteractiveAuthentication",
        "kbd_interactive_authentication",
        "no: the password isn't tried as the answer to a question of the host.",
    ),
    _on(
        "KbdInteractiveDevices",
        "kbd_interactive_devices",
        v.one(v.name),
        "names with commas",
        "What is asked of the host for a keyboard-interactive login.",
    ),
    _algorithms("KexAlgorithms", "kex", "kex", f"The key exchanges offered. {LEFT_OUT}"),
    _on(
        "LogLevel",
        "log_level",
        v.one(v.choice(v.LOGLEVELS)),
        "QUIET, FATAL, ERROR, INFO, VERBOSE, DEBUG, or DEBUG1 to DEBUG3",
        "The level of this connection's logger below `paramiko.transport`; Python's logging "
        "decides where records go. VERBOSE is INFO, and DEBUG1 to DEBUG3 are DEBUG.",
    ),
    _algorithms("MACs", "macs", "macs", f"The message authentication codes offered. {LEFT_OUT}"),
    _on(
        "NumberOfPasswordPrompts",
        "prompts",
        v.one(v.integer(0, 100)),
        "0 to 100",
        "How often the terminal's user is asked for a password if none was given; nobody is "
        "asked without this option.",
    ),
    _yes_no("PasswordAuthentication", "password_authentication", "no: no password is sent."),
    _on("Port", "port", v.one(v.integer(1, 65535)), "1 to 65535", "The port to connect to."),
    _on(
        "PreferredAuthentications",
        "preferred_logins",
        v.one(v.logins),
        "publickey, keyboard-interactive and password, with commas",
        "The login methods and their order: publickey, password, keyboard-interactive unless "
        "given. gssapi-with-mic, gssapi-keyex, hostbased and none are left out of the list.",
    ),
    _on(
        "ProxyCommand",
        "proxy_command",
        v.one(v.tokens("%hnpr")),
        "a command with the tokens %%, %h, %n, %p and %r; none",
        "A command, run by $SHELL, whose stdin and stdout lead to the host.",
    ),
    _on(
        "ProxyJump",
        "proxy_jump",
        v.one(v.tokens("%hnpr")),
        "[user@]host[:port] or an ssh:// address, several with commas; none",
        "Hosts to connect through, in order.",
    ),
    _algorithms(
        "PubkeyAcceptedAlgorithms",
        "pubkeys",
        "pubkeys",
        f"The signatures to log in with; other keys aren't offered. {LEFT_OUT}",
    ),
    _yes_no(
        "PubkeyAuthentication",
        "pubkey_authentication",
        "no: no key is tried. unbound and host-bound are not possible in paramiko.",
    ),
    _on(
        "RekeyLimit",
        "rekey_bytes",
        v.rekey,
        "an amount of bytes such as 512M, or default",
        "Bytes in one direction after which new keys are made, 512M unless given. A time is not "
        "possible in paramiko.",
    ),
    _on(
        "RequiredRSASize",
        "required_rsa_size",
        v.one(v.integer(1024, 1 << 20)),
        "bits, 1024 or more",
        "Shorter RSA keys aren't offered, and a host with one is refused.",
    ),
    _on(
        "RevokedHostKeys",
        "host_keys.revoked",
        v.one(v.check_tokens),
        f"{PATH}; none",
        "A text file with public keys, one on each line, that are refused even if known. Without "
        "the file no host is accepted, nor with a binary key revocation list: it can't be read.",
    ),
    _on(
        "SendEnv",
        "send_env",
        v.patterns,
        "names with wildcards, separated by spaces; -NAME takes back",
        "Local variables set for each call, whatever the host's AcceptEnv says.",
    ),
    _on(
        "ServerAliveCountMax",
        "server_alive_count",
        v.one(v.integer(1)),
        "1 or more",
        "Intervals without any sign of life after which the connection is closed.",
    ),
    _on(
        "ServerAliveInterval",
        "server_alive_interval",
        v.one(v.interval),
        TIME + "; 0 for never",
        "How often the host is asked for a sign of life; each question is a request that it "
        "must answer.",
    ),
    _on(
        "SetEnv",
        "set_env",
        v.variables,
        "NAME=VALUE, several with spaces or in a list, or a dict",
        "Variables set for each call, whatever the host's AcceptEnv says.",
    ),
    _on(
        "StrictHostKeyChecking",
        "host_keys.strict",
        v.one(v.choice(STRICT)),
        "yes, accept-new, ask, or no (off)",
        f"{HOST_KEYS} A changed key is refused with no, too.",
    ),
    _yes_no("TCPKeepAlive", "tcp_keepalive", "Lets the kernel probe an idle connection; yes."),
    _on("User", "user", v.one(v.name), "a name", "The user to log in as."),
    _on(
        "UserKnownHostsFile",
        "host_keys.user_files",
        v.files,
        PATHS,
        f"{HOST_KEYS} A new key is added to the first file.",
    ),
    _on(
        "VersionAddendum",
        "version_addendum",
        v.one(v.printable),
        f"{TEXT}; none",
        "A text added to the version that is told to the host.",
    ),
)
